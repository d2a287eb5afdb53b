"""Linear 1-bit layers that read one input become one: the projections of an attention take its signs once."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.passes.signs import same_side, side_of
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit, units
from rebnn_mm.deploy.operation.bits import from_bits, to_bits
from rebnn_mm.deploy.operation.spec import ConvSpec

_aten = torch.ops.aten
_VIEWS = {
    *(_aten.unflatten.int, _aten.transpose.int, _aten.permute.default, _aten.select.int, _aten.reshape.default),
    *(_aten.unsqueeze.default, _aten.squeeze.dim, _aten.flatten.using_ints, _aten.slice.Tensor, _aten.t.default),
}
# they give the same bits whatever the distance between the rows of what they read
_PRODUCTS = {_aten.matmul.default, _aten.bmm.default, _aten.mul.Tensor, _aten.div.Tensor, _aten.add.Tensor}
_WHOLE_LINES = 16  # floats of a cache line: rows that start at one, before and after


def merge_siblings(traced: Traced) -> None:
    """``a(x), b(x)`` -> ``split((a, b)(x))`` where both have the same steps and matrix products read them."""
    groups: dict[Any, list[fx.Node]] = {}
    for node in units(traced.graph):
        unit = Unit.of(node)
        assert unit is not None
        plain = unit.residual is None and unit.clamp is None and not unit.signs and not unit.has("slope")
        if unit.is_linear and plain and unit.spec.c_out % _WHOLE_LINES == 0 and _is_for_products(node):
            groups.setdefault((unit.x, *unit.tensors), []).append(node)
    for nodes in groups.values():
        if len(nodes) > 1 and same_side(traced, nodes):
            _merge(traced, nodes)
    traced.tidy()


def _is_for_products(node: fx.Node) -> bool:
    return all(user.target in _PRODUCTS or (user.target in _VIEWS and _is_for_products(user)) for user in node.users)


def _merge(traced: Traced, nodes: list[fx.Node]) -> None:
    parts = [unit for node in nodes if (unit := Unit.of(node)) is not None]
    first, sizes = parts[0], [unit.spec.c_out for unit in parts]
    single = [traced.constant(unit.bits) for unit in parts]
    if any(value is None for value in single):
        return
    tensors = {name: first.tensors[name] for name in side_of(first)}
    for name in first.tensors:
        values = [traced.constant(unit.tensors[name]) for unit in parts]
        if any(value is None for value in values):
            return
        if name not in tensors:
            tensors[name] = traced.add_constant(f"{first.bits.target}.{name}.all", torch.cat(values))  # type: ignore[arg-type]
    spec = ConvSpec.linear(sum(sizes), first.spec.c_in)
    bits = traced.add_constant(f"{first.bits.target}.all", _joined(single, parts))  # type: ignore[arg-type]
    with traced.graph.inserting_before(nodes[0]):
        whole = replace(first, bits=bits, spec=spec, tensors=tensors).call(traced.graph)
        split = traced.graph.call_function(_aten.split_with_sizes.default, (whole, sizes, -1))
        taken = [traced.graph.call_function(operator.getitem, (split, index)) for index in range(len(parts))]
    whole.meta = dict(nodes[0].meta)
    for node, part in zip(nodes, taken, strict=True):
        part.meta = dict(node.meta)
        node.replace_all_uses_with(part)
        traced.graph.erase_node(node)


def _joined(bits: list[Tensor], parts: list[Unit]) -> Tensor:
    """The bits of all weights, one below the other."""
    shapes = [unit.spec.weight_shape[:2] for unit in parts]
    if all(rows * columns % 8 == 0 for rows, columns in shapes):
        return torch.cat(bits)
    return to_bits(torch.cat([from_bits(p, shape) for p, shape in zip(bits, shapes, strict=True)]))


def fold_powers(traced: Traced) -> None:
    """``(q @ k) / 8`` -> ``(q / 8) @ k``, the factor in the 1-bit layer of ``q``: a power of two rounds nothing."""
    for node in list(traced.graph.nodes):
        factor = _power_of_two(node)
        product = node.args[0] if factor is not None else None
        if not isinstance(product, fx.Node) or product.target not in (_aten.matmul.default, _aten.bmm.default):
            continue
        source = product.args[0]
        if source is product.args[1]:  # the factor would be taken twice
            continue
        while isinstance(source, fx.Node) and source.target in _VIEWS and len(source.users) == 1:
            source = source.args[0]
        unit = Unit.of(source)
        if unit is None or len(product.users) != 1 or len(source.users) != 1 or not _is_scalable(traced, unit):
            continue
        scaled = {
            name: traced.add_constant(
                f"{unit.bits.target}.{name}.scaled", traced.tensors[unit.tensors[name].target] * factor
            )
            for name in ("alpha", "bias")
            if unit.has(name)
        }
        with traced.graph.inserting_before(source):
            new = unit.with_tensors(**scaled).call(traced.graph)
        new.meta = dict(source.meta)
        source.replace_all_uses_with(new)
        traced.graph.erase_node(source)
        node.replace_all_uses_with(product)
    traced.tidy()


def _power_of_two(node: fx.Node) -> float | None:
    """The factor if ``node`` multiplies with, or divides by, a number that is a power of two; else None."""
    if node.target not in (_aten.mul.Tensor, _aten.div.Tensor) or node.kwargs:
        return None
    number = node.args[1]
    if not isinstance(number, (int, float)) or not number > 0 or math.frexp(number)[0] != 0.5:
        return None
    return 1 / number if node.target is _aten.div.Tensor else float(number)


def _is_scalable(traced: Traced, unit: Unit) -> bool:
    """Whether all of the result is proportional to alpha and bias, which are far from the smallest numbers."""
    if unit.residual is not None or unit.clamp is not None or unit.signs:
        return False
    if set(unit.tensors) - {*side_of(unit), "alpha", "bias"}:
        return False
    values = [traced.constant(unit.tensors[name]) for name in ("alpha", "bias") if unit.has(name)]
    return all(value is not None and not bool(((value != 0) & (value.abs() < 1e-20)).any()) for value in values)
