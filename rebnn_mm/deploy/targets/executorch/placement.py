"""Which engine runs which operators of a lowered program, and what it refuses to leave to the slow one."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import fx

from rebnn_mm.errors import UserError

# ExecuTorch's portable kernels compute these with plain loops: a hundred times slower than XNNPACK
_PRODUCTS = ("convolution", "conv1d", "conv2d", "conv_transpose2d", "linear", "addmm", "mm", "bmm", "matmul", "baddbmm")


@dataclass(frozen=True)
class Placement:
    """Operators by engine, name -> number.

    Attributes:
        binary: Delegates of 1-bit layers.
        xnnpack: Within XNNPACK's delegates, ``xnnpack_parts`` in number.
        portable: Left to ExecuTorch's own kernels; a program without any needs no kernel library.
    """

    binary: int
    xnnpack: dict[str, int]
    xnnpack_parts: int
    portable: dict[str, int]

    def __str__(self) -> str:
        lines = [
            f"1-bit delegate: {self.binary} layers",
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


def placement_of(graph: fx.Graph, module: Any) -> Placement:
    """Read the graph of an edge program after lowering.

    Args:
        graph: Its graph.
        module: Its graph module, which holds the lowered parts.
    """
    binary, parts = 0, 0
    xnnpack: Counter[str] = Counter()
    portable: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        if "call_delegate" not in str(node.target):
            portable[_name(node)] += 1
            continue
        lowered = getattr(module, node.args[0].target)
        if lowered.backend_id == "XnnpackBackend":
            parts += 1
            inner = lowered.original_module.graph.nodes
            xnnpack.update(_name(n) for n in inner if n.op == "call_function" and n.target is not operator.getitem)
        else:
            binary += 1
    return Placement(binary, dict(xnnpack), parts, dict(portable))


def _name(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    return name.removeprefix("aten.").split(".")[0]
