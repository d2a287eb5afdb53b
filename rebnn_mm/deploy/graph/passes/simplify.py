"""Remove what computes nothing, and compute once what depends on constants only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.traced import Traced

_aten = torch.ops.aten
_SAME = {_aten.alias.default, _aten.detach.default, _aten.lift_fresh_copy.default, _aten.lift_fresh.default}
_PADS = {_aten.pad.default, _aten.constant_pad_nd.default}
_VIEWS = {_aten.view.default, _aten._unsafe_view.default}


def simplify(traced: Traced) -> None:
    """Drop aliases, let views accept any memory layout, drop casts to the same type, fold constants."""
    for node in list(traced.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _SAME or _is_copy(node) or _pads_nothing(node) or _keeps_type(node):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
            continue
        if node.target in _VIEWS:
            node.target = _aten.reshape.default
        _fold(traced, node)
    traced.tidy()


def _is_copy(node: fx.Node) -> bool:
    """Whether the node is a clone in the memory format of its input: no operator of a graph writes into either."""
    kept = (None, torch.preserve_format)
    return node.target == _aten.clone.default and node.kwargs.get("memory_format") in kept


def _pads_nothing(node: fx.Node) -> bool:
    """Whether the node pads by zero elements on all sides."""
    sizes = node.args[1] if node.target in _PADS else None
    return isinstance(sizes, (list, tuple)) and all(type(size) is int and size == 0 for size in sizes)


def _keeps_type(node: fx.Node) -> bool:
    """Whether the node is a ``to`` that changes neither type nor device nor layout."""
    if node.target not in (_aten.to.dtype, _aten._to_copy.default, _aten.to.dtype_layout) or node.args[3:]:
        return False
    wanted = node.kwargs.get("dtype", node.args[1] if len(node.args) > 1 else None)
    before = node.args[0].meta.get("val")
    return isinstance(before, Tensor) and wanted in (None, before.dtype) and not node.kwargs.get("copy")


def draws(node: fx.Node) -> bool:
    """Whether the node draws random numbers, other ones in each call."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _fold(traced: Traced, node: fx.Node) -> None:
    """Replace ``node`` by its value if that is a constant which takes no more bytes than what it is made of."""
    sources = node.all_input_nodes
    constants = [traced.constant(source) for source in sources]
    if not sources or any(value is None for value in constants) or not str(node.target).startswith("aten."):
        return
    if draws(node):
        return

    def value_of(argument: Any) -> Any:
        return traced.tensors[argument.target]

    with torch.no_grad():
        value = node.target(*fx.node.map_arg(node.args, value_of), **fx.node.map_arg(node.kwargs, value_of))
    if not isinstance(value, Tensor) or value.numel() > max(constant.numel() for constant in constants):
        return
    first = sources[0]
    if len(sources) == 1 and len(first.users) == 1:  # it takes the place of its source, and its name
        traced.tensors[first.target] = value.contiguous()
        first.meta["val"] = value
        node.replace_all_uses_with(first)
    else:
        node.replace_all_uses_with(traced.add_constant(f"{first.target}.folded", value.contiguous()))
    traced.graph.erase_node(node)
