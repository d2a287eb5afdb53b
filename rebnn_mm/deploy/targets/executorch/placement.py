"""Which engine runs which operators of a lowered program, and what it refuses to leave to the slow one."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from rebnn_mm.deploy.targets.executorch.operators import is_ours, name_of
from rebnn_mm.errors import UserError

# ExecuTorch's portable kernels compute these with plain loops: a hundred times slower than XNNPACK
_PRODUCTS = ("convolution", "conv1d", "conv2d", "conv_transpose2d", "linear", "addmm", "mm", "bmm", "matmul", "baddbmm")


@dataclass(frozen=True)
class Placement:
    """Operators by engine, name -> number.

    Attributes:
        binary: Delegates of 1-bit layers.
        real: Delegates of real-valued convolutions in this package's kernels.
        nearest: Delegates of nearest upsampling.
        xnnpack: Within XNNPACK's delegates, ``xnnpack_parts`` in number.
        portable: Left to ExecuTorch's own kernels; a program without any needs no kernel library.
        steps: What each instruction of the program is, in the order of ``rebnn_run --profile``, method after method.
    """

    binary: int
    xnnpack: dict[str, int]
    xnnpack_parts: int
    portable: dict[str, int]
    real: int = 0
    nearest: int = 0
    steps: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"this package's kernels: {self.binary} 1-bit layers, {self.real} real-valued convolutions, "
            f"{self.nearest} nearest upsamplings",
            f"XNNPACK: {self.xnnpack_parts} parts, {_listed(self.xnnpack)}",
            f"ExecuTorch's own kernels: {_listed(self.portable)}",
        ]
        return "\n".join(lines)

    def check(self) -> None:
        """Raise UserError if a real-valued product of matrices is left to the portable kernels."""
        slow = {name: count for name, count in self.portable.items() if name in _PRODUCTS}
        if slow:
            raise UserError(
                f"{_listed(slow)} would run in ExecuTorch's portable kernels, a hundred times slower than in XNNPACK, "
                "which does not take them in this form (another dtype than float32, a weight that is computed, groups "
                "or dimensions that it lacks): change these layers, or export with allow_slow=True (--allow-slow)"
            )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def placement_of(methods: Sequence[tuple[fx.Graph, Any]]) -> Placement:
    """Read the graphs of an edge program after lowering.

    Args:
        methods: Of each method its graph, and its graph module, which holds the lowered parts.
    """
    parts, ours = 0, Counter[str]()
    xnnpack: Counter[str] = Counter()
    portable: Counter[str] = Counter()
    steps = []
    nodes = [(node, module) for graph, module in methods for node in graph.nodes if node.op == "call_function"]
    for node, module in nodes:
        if node.target is operator.getitem:
            continue
        if "call_delegate" not in str(node.target):
            portable[_name(node)] += 1
            steps.append(f"ExecuTorch: {_name(node)}")
            continue
        lowered = getattr(module, node.args[0].target)
        inner = [n for n in lowered.original_module.graph.nodes if n.op == "call_function"]
        inner = [n for n in inner if n.target is not operator.getitem]
        if lowered.backend_id == "XnnpackBackend":
            parts += 1
            xnnpack.update(map(_name, inner))
            steps.append(f"XNNPACK: {', '.join(map(_name, inner))}")
        else:
            (step,) = (name_of(n) for n in inner if is_ours(n))
            ours[step.split()[0]] += 1
            steps.append(step)
    return Placement(
        ours["1-bit"], dict(xnnpack), parts, dict(portable), ours["real-valued"], ours["nearest"], tuple(steps)
    )


def _name(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    return name.removeprefix("aten.").split(".")[0]
