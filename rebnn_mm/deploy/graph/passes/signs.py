"""Let a 1-bit operator hand its successor signs instead of floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit, unit_fed_by, units

_INPUT = {"shift": "sign_shift", "input_scale": "sign_scale", "input_offset": "sign_offset"}


def pass_signs(traced: Traced) -> None:
    """``unit -> unit``: the first one takes over the second one's shift, norm and sign, and returns signs only.

    Several readers share the signs if they have the same shift and norm. Where somebody else reads the floats, a
    shortcut for example, nothing changes: signs beside floats cost as much as they save (measured).
    """
    renewed: dict[fx.Node, fx.Node] = {}
    for node in units(traced.graph):
        node = renewed.get(node, node)
        unit = _unit(node)
        readers = _readers(node, unit)
        sides = {_side(_unit(reader)) for reader in readers}
        if len(readers) != len(node.users) or len(sides) != 1:
            continue
        (side,) = sides
        tensors = {_INPUT[name]: value for name, value in side}
        with traced.graph.inserting_before(node):
            signs = replace(unit.with_tensors(**tensors), signs=True, floats=False).call(traced.graph)
        for reader in readers:
            old = _unit(reader)
            rest = {name: value for name, value in old.tensors.items() if name not in _INPUT}
            with traced.graph.inserting_before(reader):
                put = replace(old, x=signs, tensors=rest).call(traced.graph)
            put.meta = dict(reader.meta)
            renewed[reader] = put
            reader.replace_all_uses_with(put)
            traced.graph.erase_node(reader)
        traced.graph.erase_node(node)
    traced.tidy()


def _readers(node: fx.Node, unit: Unit) -> list[fx.Node]:
    """Operators of the same kind that take ``node`` as their input and not as their shortcut."""
    fed = {user: unit_fed_by(node, user) for user in node.users}
    return [user for user, other in fed.items() if other is not None and other.target == unit.target]


def side_of(unit: Unit) -> tuple[str, ...]:
    """Names of the steps in front of the unit's sign."""
    return tuple(name for name in _INPUT if name in unit.tensors)


def same_side(traced: Traced, nodes: Sequence[fx.Node]) -> bool:
    """Whether units take the sign of their input behind the same steps: of equal values, if not the same constants."""
    first, *others = map(_unit, nodes)
    return all(
        side_of(other) == side_of(first)
        and all(_equal(traced, first.tensors[name], other.tensors[name]) for name in side_of(first))
        for other in others
    )


def _equal(traced: Traced, a: fx.Node, b: fx.Node) -> bool:
    values = traced.constant(a), traced.constant(b)
    if a is b:
        return True
    return values[0] is not None and values[1] is not None and torch.equal(values[0], values[1])


def _unit(node: fx.Node) -> Unit:
    unit = Unit.of(node)
    assert unit is not None
    return unit


def _side(unit: Unit) -> tuple[tuple[str, fx.Node], ...]:
    return tuple((name, unit.tensors[name]) for name in _INPUT if name in unit.tensors)
