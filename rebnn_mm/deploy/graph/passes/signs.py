"""Let a 1-bit operator hand its successor packed signs instead of floats."""

from __future__ import annotations

import operator
from dataclasses import replace

from torch import fx

from rebnn_mm.deploy.graph.capture import Traced
from rebnn_mm.deploy.graph.unit import Unit, units

_INPUT = {"shift": "sign_shift", "input_scale": "sign_scale", "input_offset": "sign_offset"}


def pass_signs(traced: Traced) -> None:
    """``unit -> unit``: the first one takes over the second one's shift, norm and sign.

    Several readers share the packed signs if they have the same shift and norm. The floats are kept for whoever else
    reads them, a shortcut for example.
    """
    renewed: dict[fx.Node, fx.Node] = {}
    for node in units(traced.graph):
        node = renewed.get(node, node)
        unit = _unit(node)
        readers = _readers(node, unit)
        if not readers:
            continue
        first = Unit.of(readers[0])
        assert first is not None
        side = _side(first)
        readers = [reader for reader in readers if _side(_unit(reader)) == side]
        floats = len(readers) < len(node.users) or any(_unit(reader).residual is node for reader in readers)
        tensors = {_INPUT[name]: value for name, value in side}
        with traced.graph.inserting_before(node):
            new = replace(unit.with_tensors(**tensors), signs=True, floats=floats).call(traced.graph)
            packed = traced.graph.call_function(operator.getitem, (new, 1)) if floats else new
            values = traced.graph.call_function(operator.getitem, (new, 0)) if floats else None
        packed.meta["val"] = None
        for reader in readers:
            old = _unit(reader)
            rest = {name: value for name, value in old.tensors.items() if name not in _INPUT}
            with traced.graph.inserting_before(reader):
                put = replace(old, x=packed, tensors=rest).call(traced.graph)
            put.meta = dict(reader.meta)
            renewed[reader] = put
            reader.replace_all_uses_with(put)
            traced.graph.erase_node(reader)
        if values is not None:
            values.meta = dict(node.meta)
            node.replace_all_uses_with(values)
        traced.graph.erase_node(node)
    traced.tidy()


def _readers(node: fx.Node, unit: Unit) -> list[fx.Node]:
    """Operators of the same kind that take ``node`` as their input."""
    found = []
    for user in node.users:
        other = Unit.of(user)
        if other is not None and other.target == unit.target and other.x is node and other.spec.groups == 1:
            found.append(user)
    return found


def _unit(node: fx.Node) -> Unit:
    unit = Unit.of(node)
    assert unit is not None
    return unit


def _side(unit: Unit) -> tuple[tuple[str, fx.Node], ...]:
    return tuple((name, unit.tensors[name]) for name in _INPUT if name in unit.tensors)
