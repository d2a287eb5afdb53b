"""What is done once when a graph is loaded: constants computed, and norms folded where bits may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.convolutions import CONV, fold_norm
from rebnn_mm.deploy.graph.guarded import GUARDED
from rebnn_mm.deploy.graph.operators import PRODUCTS
from rebnn_mm.deploy.graph.passes.integers import compute_on_integers
from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.passes.rows import keep_tables
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.trial import tensors_of
from rebnn_mm.deploy.operation.int8 import dequantize

# What a hostile file could otherwise ask for is more memory and time than there is. In elements:
_LARGEST = 1 << 24  # of one constant
_MOST = 1 << 26  # of all, beyond what each is made of
_WORK = 1 << 31  # read, written and multiplied; what is beyond stays in the graph, and is computed in each call
_NAMED_PADDING = torch.ops.aten.conv2d.padding


def prepare(traced: Traced, exact: bool, eight_bits: bool = False, check: bool = True) -> None:
    """Evaluate all calls that depend on constants only.

    Args:
        traced: Is changed in place.
        exact: Leave every bit as it is; False folds norms into real-valued convolutions and linear layers.
        eight_bits: Leave embeddings' tables in 8 bits, and, unless ``exact``, compute layers with such weights on
            integers where that is supported. False turns all of them into floats.
        check: Refuse constants of a size that no network has; False for a graph that has been checked before.

    Raises:
        ValueError: They are larger than those of any network.
    """
    budget = _Budget() if check else None
    if eight_bits:
        keep_tables(traced)
    if eight_bits and not exact:
        compute_on_integers(traced)
    with torch.no_grad():
        for node in list(traced.graph.nodes):
            if node.target is dequantize:  # first: a norm is folded into floats
                _evaluate(traced, node, budget)
        _count_paddings(traced)
        if not exact:
            for node in list(traced.graph.nodes):
                if is_affine(node):
                    fold_norm(traced, node)
            traced.tidy()
        for node in list(traced.graph.nodes):
            _evaluate(traced, node, budget)
    traced.tidy()


@dataclass
class _Budget:
    """What constants may still cost, in elements."""

    size: int = _MOST
    work: int = _WORK

    def allows(self, node: fx.Node, traced: Traced) -> bool:
        """Whether the call is to be computed once; it is counted then.

        Raises:
            ValueError: Its result, or all together, are too large.
        """
        given, results = _sizes(node, traced)
        made = sum(results)
        if max(results, default=0) > _LARGEST:
            raise ValueError(f"{node.target} gives {max(results):,} elements: no network has such a constant")
        self.size -= max(0, made - sum(given))
        if self.size < 0:
            raise ValueError(f"constants of more than {_MOST:,} elements in all: no network has them")
        # an element of a product, or a mean over a window, is made of all that it was given, at most
        work = made * max(given, default=1) if _is_product(node.target) else made + sum(given)
        if work > self.work:
            return False
        self.work -= work
        return True


def _is_product(target: Any) -> bool:
    words = str(target).split(".")
    return words[0] == "aten" and (words[1] in PRODUCTS or "pool" in words[1])


def _evaluate(traced: Traced, node: fx.Node, budget: _Budget | None) -> None:
    sources = node.all_input_nodes
    if node.op != "call_function" or any(source.op != "get_attr" for source in sources):
        return
    if not sources and not str(node.target).startswith("aten."):
        return

    def value_of(argument: fx.Node) -> Any:
        return traced.tensors[argument.target]

    if budget is not None and not budget.allows(node, traced):
        return
    target: Any = GUARDED.get(node.target, node.target)
    value = target(*fx.node.map_arg(node.args, value_of), **fx.node.map_arg(node.kwargs, value_of))
    if isinstance(value, Tensor):
        new = traced.add_constant("computed", value)
        new.meta["rank"] = value.dim()
        node.replace_all_uses_with(new)
        traced.graph.erase_node(node)


def _sizes(node: fx.Node, traced: Traced) -> tuple[list[int], list[int]]:
    """Elements of the constants that a call takes, and of what it gives."""
    given = [traced.tensors[source.target].numel() for source in node.all_input_nodes]

    def without_memory(argument: fx.Node) -> Any:
        return traced.tensors[argument.target].to("meta")

    arguments, keywords = (fx.node.map_arg(part, without_memory) for part in (node.args, node.kwargs))
    try:
        with torch.device("meta"):  # also for what is made of sizes alone
            value = node.target(*arguments, **keywords)
    except NotImplementedError:  # its size depends on values: a selection, which is not larger than its source
        return given, given
    return given, [part.numel() for part in tensors_of(value)]


def _count_paddings(traced: Traced) -> None:
    """``conv2d(..., padding="same")`` -> the number of pixels, where both sides get as many: what torch does itself."""
    for node in list(traced.graph.nodes):
        weight = traced.constant(node.args[1]) if node.target == _NAMED_PADDING else None
        if weight is None or node.kwargs:
            continue
        x, weight_node, bias, stride, padding, dilation, groups = (*node.args, *_DEFAULTS[len(node.args) :])
        steps = dilation if len(dilation) == 2 else 2 * dilation
        spans = [step * (size - 1) for step, size in zip(steps, weight.shape[2:], strict=True)]
        if padding not in ("same", "valid") or (padding == "same" and any(span % 2 for span in spans)):
            continue
        node.target = CONV
        pixels = [span // 2 for span in spans] if padding == "same" else [0, 0]
        node.args = (x, weight_node, bias, stride, pixels, dilation, groups)


_DEFAULTS = (None, None, None, [1, 1], "valid", [1, 1], 1)
