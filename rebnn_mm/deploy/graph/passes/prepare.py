"""What is done once when a graph is loaded: constants computed, and norms folded where bits may change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.convolutions import CONV, fold_norm
from rebnn_mm.deploy.graph.passes.integers import compute_on_integers
from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.passes.rows import keep_tables
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.trial import tensors_of
from rebnn_mm.deploy.operation.int8 import dequantize

_LARGEST = 1 << 24  # elements; a hostile file could otherwise ask for more memory than there is
_NAMED_PADDING = torch.ops.aten.conv2d.padding


def prepare(traced: Traced, exact: bool, eight_bits: bool = False, check: bool = True) -> None:
    """Evaluate all calls that depend on constants only.

    Args:
        traced: Is changed in place.
        exact: Leave every bit as it is; False folds norms into real-valued convolutions and linear layers.
        eight_bits: Leave embeddings' tables in 8 bits, and, unless ``exact``, compute layers with such weights on
            integers where that is supported. False turns all of them into floats.
        check: Refuse constants of a size that no network has; False for a graph that has been checked before.
    """
    if eight_bits:
        keep_tables(traced)
    if eight_bits and not exact:
        compute_on_integers(traced)
    with torch.no_grad():
        for node in list(traced.graph.nodes):
            if node.target is dequantize:  # first: a norm is folded into floats
                _evaluate(traced, node, check)
        _count_paddings(traced)
        if not exact:
            for node in list(traced.graph.nodes):
                if is_affine(node):
                    fold_norm(traced, node)
            traced.tidy()
        for node in list(traced.graph.nodes):
            _evaluate(traced, node, check)
    traced.tidy()


def _evaluate(traced: Traced, node: fx.Node, check: bool) -> None:
    sources = node.all_input_nodes
    if node.op != "call_function" or any(source.op != "get_attr" for source in sources):
        return
    if not sources and not str(node.target).startswith("aten."):
        return

    def value_of(argument: fx.Node) -> Any:
        return traced.tensors[argument.target]

    if check:
        _check_size(node, traced)
    value = node.target(*fx.node.map_arg(node.args, value_of), **fx.node.map_arg(node.kwargs, value_of))
    if isinstance(value, Tensor):
        new = traced.add_constant("computed", value)
        new.meta["rank"] = value.dim()
        node.replace_all_uses_with(new)
        traced.graph.erase_node(node)


def _check_size(node: fx.Node, traced: Traced) -> None:
    """Raise ValueError if the result of a call on constants is larger than a network's constant may be."""

    def without_memory(argument: fx.Node) -> Any:
        return traced.tensors[argument.target].to("meta")

    arguments, keywords = (fx.node.map_arg(part, without_memory) for part in (node.args, node.kwargs))
    try:
        with torch.device("meta"):  # also for what is made of sizes alone
            value = node.target(*arguments, **keywords)
    except NotImplementedError:  # its size depends on values: a selection, which is not larger than its source
        return
    largest = max((part.numel() for part in tensors_of(value)), default=0)
    if largest > _LARGEST:
        raise ValueError(f"{node.target} gives {largest:,} elements: no network has such a constant")


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
