"""Put a shift and a batch norm that stand in front of a 1-bit operator into it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit, units

_ADD, _RESHAPE = torch.ops.aten.add.Tensor, torch.ops.aten.reshape.default


def fuse_before(traced: Traced) -> None:
    """``unit(affine(x + shift))`` -> ``unit(x)`` with both in its input side; other readers keep them."""
    for node in units(traced.graph):
        unit = Unit.of(node)
        assert unit is not None
        changed = unit if unit.has("shift", "input_scale") else _with_norm(unit)
        x, shift = shift_of(traced, changed.x, changed)
        if shift is not None and not changed.has("shift"):
            changed = replace(changed.with_tensors(shift=shift), x=x)
        if changed is not unit:
            with traced.graph.inserting_before(node):
                new = changed.call(traced.graph)
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
            traced.graph.erase_node(node)
    traced.tidy()


def _with_norm(unit: Unit) -> Unit:
    """The unit with the norm that stands in front of it; itself if none does."""
    x, norm = _norm_of_rows(unit.x) if unit.is_linear else (unit.x, None)
    if norm is not None:
        return replace(unit.with_tensors(input_scale=norm.args[1], input_offset=norm.args[2]), x=x)
    # a linear layer's channels are last, an affine's second: the same for (N, C) only
    if is_affine(unit.x) and _rank(unit.x) == (2 if unit.is_linear else 4):
        x, scale, offset = unit.x.args
        return replace(unit.with_tensors(input_scale=scale, input_offset=offset), x=x)
    return unit


def _norm_of_rows(node: Any) -> tuple[Any, fx.Node | None]:
    """(x, affine) if ``node`` is ``reshape(affine(reshape(x, (-1, C))), shape of x)``; (node, None) otherwise."""
    if node.target != _RESHAPE or not is_affine(node.args[0]):
        return node, None
    norm = node.args[0]
    rows = norm.args[0]
    if not isinstance(rows, fx.Node) or rows.target != _RESHAPE or _rank(rows) != 2:
        return node, None
    x = rows.args[0]
    shapes = [part.meta["val"].shape if isinstance(part.meta.get("val"), Tensor) else None for part in (x, node, rows)]
    if None in shapes or [*map(str, shapes[0])] != [*map(str, shapes[1])] or shapes[0][-1] != shapes[2][-1]:
        return node, None
    return x, norm


def shift_of(traced: Traced, node: fx.Node, unit: Unit) -> tuple[Any, fx.Node | None]:
    """(x, constant) if ``node`` is ``x + constant`` with one element a channel of ``unit``'s input."""
    return channel_constant(traced, node, unit.spec.c_in, last=unit.is_linear)


def channel_constant(traced: Traced, node: Any, channels: int, last: bool) -> tuple[Any, fx.Node | None]:
    """(other operand, constant of ``channels`` elements) of an addition; (node, None) if it is something else."""
    if not isinstance(node, fx.Node) or node.target != _ADD or node.kwargs.get("alpha", 1) != 1:
        return node, None
    a, b = node.args[:2]
    for x, constant in ((a, b), (b, a)):
        value = traced.constant(constant)
        if value is None or not isinstance(x, fx.Node) or traced.constant(x) is not None:
            continue
        if is_channel_vector(value, channels, _rank(x), last):
            return x, flat_constant(traced, constant)
    return node, None


def is_channel_vector(value: Tensor, channels: int, rank: int, last: bool) -> bool:
    """Whether ``value`` broadcasts as one element a channel over a tensor of ``rank`` dimensions."""
    if value.numel() != channels or value.dtype != torch.float32:
        return False
    place = 1 if last else rank - 1  # dimensions from the channels' one to the end
    shape = tuple(value.shape)
    return len(shape) <= rank and len(shape) >= place and shape[len(shape) - place] == channels


def flat_constant(traced: Traced, node: fx.Node) -> fx.Node:
    """The constant as a vector; itself if it is one."""
    value = traced.tensors[node.target]
    if value.dim() == 1:
        return node
    name = str(node.target)
    for other in traced.graph.nodes:  # made for another reader already
        if other.op == "get_attr" and other.meta.get("flat_of") == name:
            return other
    new = traced.add_constant(f"{name}.flat", value.flatten())
    new.meta["flat_of"] = name
    return new


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else -1
