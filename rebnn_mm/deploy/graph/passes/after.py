"""Put what follows a 1-bit operator into it: bias, batch norm, shortcut, activation, and a batch norm behind that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.passes.before import channel_constant, flat_constant
from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit, units

_aten = torch.ops.aten
_INF = float("inf")
# what is done behind the sum with the shortcut
_ACTIVATION = ("before", "slope", "after")


def fuse_after(traced: Traced) -> None:
    """Take up the single reader of each operator's result, again and again, while the operator has a step for it."""
    for node in units(traced.graph):
        while True:
            users = list(node.users)
            if len(users) != 1 or users[0].op != "call_function":
                break
            unit = Unit.of(node)
            if unit is None:
                break
            fused = _taken_up(traced, unit, node, users[0])
            if fused is None:
                break
            # where the reader stood: everything that it reads is there
            with traced.graph.inserting_before(users[0]):
                new = fused.call(traced.graph)
            new.meta = dict(users[0].meta)
            users[0].replace_all_uses_with(new)
            traced.graph.erase_node(users[0])
            traced.graph.erase_node(node)
            node = new
    traced.tidy()


def _taken_up(traced: Traced, unit: Unit, node: fx.Node, user: fx.Node) -> Unit | None:
    """``unit`` with ``user``'s step put in; None if there is no place for it."""
    if unit.residual_last:
        return None
    acted = unit.clamp is not None or unit.has(*_ACTIVATION)
    if is_affine(user):
        return _with_norm(unit, user, acted)
    if user.target == _aten.add.Tensor:
        return _with_sum(traced, unit, node, user, acted)
    if unit.has("last_scale"):
        return None
    limits = limits_of(user)
    if limits is not None:
        return replace(unit, clamp=limits) if unit.clamp is None else None
    if unit.clamp is None and not unit.has("slope", "after"):
        slope = _slope(traced, unit, user)
        if slope is not None:
            return unit.with_tensors(slope=slope)
    return None


def _with_norm(unit: Unit, user: fx.Node, acted: bool) -> Unit | None:
    value = user.meta.get("val")
    if unit.is_linear and not (isinstance(value, Tensor) and value.dim() == 2):
        return None
    _, scale, offset = user.args
    if not acted and unit.residual is None and not unit.has("scale"):
        return unit.with_tensors(scale=scale, offset=offset)
    # behind the sum with the shortcut a norm is the last step, with or without an activation between
    return None if unit.has("last_scale") else unit.with_tensors(last_scale=scale, last_offset=offset)


def _with_sum(traced: Traced, unit: Unit, node: fx.Node, user: fx.Node, acted: bool) -> Unit | None:
    x, constant = channel_constant(traced, user, unit.spec.c_out, last=unit.is_linear)
    if constant is not None:
        return _with_constant(unit, constant) if x is node else None
    if user.kwargs.get("alpha", 1) != 1 or unit.residual is not None:
        return None
    a, b = user.args[:2]
    other = b if a is node else a
    if other is node or not _same_shape(node, other):
        return None
    last = acted or unit.has("last_scale")
    return replace(unit, residual=other, residual_last=last)


def _with_constant(unit: Unit, constant: fx.Node) -> Unit | None:
    """The first free step that adds a vector, of those whose turn it still is."""
    order = ("bias", "scale", "before", "slope", "after", "last_scale")
    taken = [step for step in order if unit.has(step)]
    latest = max((order.index(step) for step in taken), default=-1)
    if unit.residual is not None:
        latest = max(latest, order.index("scale"))
    if unit.clamp is not None:
        return None
    for step in ("bias", "before", "after"):
        if order.index(step) > latest:
            return unit.with_tensors(**{step: constant})
    return None


# (lowest, highest) where a call does not say
_LIMITS: dict[Any, tuple[float | None, float | None]] = {
    _aten.relu.default: (0.0, None),
    _aten.relu6.default: (0.0, 6.0),
    _aten.hardtanh.default: (-1.0, 1.0),
    _aten.clamp.default: (None, None),
    _aten.clamp_min.default: (None, None),
}


def limits_of(user: fx.Node) -> tuple[float, float] | None:
    """(lowest, highest) of a ReLU, hardtanh or clamp; None if these are not numbers, or not in this order."""
    if user.target not in _LIMITS or user.kwargs:
        return None
    given = user.args[1:3]
    bounds = (*given, *_LIMITS[user.target][len(given) :])
    if not all(bound is None or type(bound) in (int, float) for bound in bounds):
        return None  # a size of the input
    lowest, highest = (
        side if bound is None else float(bound) for bound, side in zip(bounds, (-_INF, _INF), strict=True)
    )  # type: ignore[arg-type]
    return (lowest, highest) if lowest <= highest else None


def _slope(traced: Traced, unit: Unit, user: fx.Node) -> fx.Node | None:
    """Constant of a PReLU's or leaky ReLU's slope."""
    if user.target in (_aten.prelu.default, _aten._prelu_kernel.default):
        value = traced.constant(user.args[1])
        fits = value is not None and value.numel() in (1, unit.spec.c_out)
        # torch's PReLU has its slopes in the second dimension
        rank = user.meta["val"].dim() if isinstance(user.meta.get("val"), Tensor) else -1
        return flat_constant(traced, user.args[1]) if fits and (not unit.is_linear or rank == 2) else None
    if user.target == _aten.leaky_relu.default:
        slope = float(user.args[1]) if len(user.args) > 1 else 0.01
        return traced.add_constant(f"leaky_relu_{slope:g}", torch.tensor([slope], dtype=torch.float32, device="cpu"))
    return None


def _same_shape(a: Any, b: Any) -> bool:
    shapes = [node.meta["val"].shape if isinstance(node, fx.Node) and "val" in node.meta else None for node in (a, b)]
    kinds = [node.meta["val"].dtype if isinstance(node, fx.Node) and "val" in node.meta else None for node in (a, b)]
    if None in shapes or kinds != [torch.float32, torch.float32] or len(shapes[0]) != len(shapes[1]):
        return False
    return all(str(x) == str(y) for x, y in zip(*shapes, strict=True))
