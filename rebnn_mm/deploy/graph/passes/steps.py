"""Decide a sign by one number a channel, whatever norms and clamps stand in front of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.passes.after import limits_of
from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.passes.signs import side_of
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit, unit_fed_by, units
from rebnn_mm.deploy.operation.reference import fma
from rebnn_mm.deploy.operation.thresholds import Turn

Step = Callable[[Tensor], Tensor]


def decide_signs(traced: Traced) -> None:
    """``unit(relu(affine(x)))`` -> ``unit(x)``, where nobody else reads what is between, as in DenseNet.

    Each step, and the unit's own shift and norm, rises or falls with its input or is constant, in floating point, too.
    So does the sign behind them: it is ``sign(x - t)`` or ``sign(t - x)`` with a float t for each channel, or constant.
    These stand for the norm of the unit's input. Holds for finite inputs.
    """
    for node in units(traced.graph):
        unit = Unit.of(node)
        assert unit is not None
        calls = _calls(unit)
        steps = [_step(traced, call, unit.spec.c_in) for call in calls] + _own_steps(traced, unit)
        if not calls or None in steps:
            continue
        scale, offset = threshold(unit.spec.c_in, [step for step in steps if step is not None])
        tensors = {name: value for name, value in unit.tensors.items() if name not in side_of(unit)}
        for name, value in (("input_scale", scale), ("input_offset", offset)):
            tensors[name] = traced.add_constant(f"{unit.bits.target}.{name}", value)
        with traced.graph.inserting_before(node):
            new = replace(unit, x=calls[0].args[0], tensors=tensors).call(traced.graph)  # type: ignore[arg-type]
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        traced.graph.erase_node(node)
    traced.tidy()


def _calls(unit: Unit) -> list[fx.Node]:
    """Norms and clamps in front of a unit, in their order, whose results nobody needs but the signs of units."""
    calls: list[fx.Node] = []
    x: Any = unit.x
    while isinstance(x, fx.Node) and (limits_of(x) is not None or is_affine(x)):
        readers = list(x.users)
        if calls and len(readers) > 1:
            break
        if not calls and not all(unit_fed_by(x, reader) for reader in readers):
            break
        if is_affine(x) and _rank(x) != (2 if unit.is_linear else 4):
            break
        calls.insert(0, x)
        x = x.args[0]
    return calls


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else -1


def _step(traced: Traced, call: fx.Node, channels: int) -> Step | None:
    """What a call does to one value of each channel; None if that is not known."""
    limits = limits_of(call)
    if limits is not None:
        return lambda x: x.clamp(*limits)
    return _norm(traced.constant(call.args[1]), traced.constant(call.args[2]), channels)


def _norm(scale: Tensor | None, offset: Tensor | None, channels: int) -> Step | None:
    if scale is None or offset is None or scale.shape != (channels,) or offset.shape != (channels,):
        return None
    return (lambda x: fma(x, scale, offset)) if bool((scale.isfinite() & offset.isfinite()).all()) else None


def _own_steps(traced: Traced, unit: Unit) -> list[Step | None]:
    steps: list[Step | None] = []
    if unit.has("shift"):
        shift = traced.constant(unit.tensors["shift"])
        steps.append(None if shift is None or not bool(shift.isfinite().all()) else lambda x: x + shift.flatten())
    if unit.has("input_scale"):
        scale, offset = (traced.constant(unit.tensors[name]) for name in ("input_scale", "input_offset"))
        steps.append(_norm(scale, offset, unit.spec.c_in))
    return steps


def threshold(channels: int, steps: list[Step]) -> tuple[Tensor, Tensor]:
    """(scale, offset), each (channels,), such that ``fma(x, scale, offset) >= 0`` where the steps give at least 0.

    Args:
        channels: Number of values that the steps take.
        steps: Each takes and returns (channels,), and rises or falls with each value, or is constant.
    """

    def positive(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x >= 0

    turn = Turn.of(channels, positive)
    one = torch.ones(channels, dtype=torch.float32, device="cpu")
    scale = torch.where(turn.first == turn.last, 0.0, torch.where(turn.last, one, -one))
    edge = torch.where(turn.last, -turn.above, turn.below)
    return scale, torch.where(turn.first == turn.last, torch.where(turn.first, one, -one), edge)
