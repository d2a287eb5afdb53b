"""Hand on signs through an activation: what is behind a 1-bit product depends on one integer for each channel.

``unit -> GELU -> unit``: the product of K signs is one of 2 K + 1 integers. For each of them and each channel, the sign
that the second unit takes is computed once, by the operators of the graph themselves, when the network is prepared. As
a rule it changes at one or two places (GELU falls and rises), and then the first unit's kernel gives it from the
integer: ``sign(n - middle)``, or ``sign(|n - middle| - half)`` by a slope of -1. No floats are written.

GELU of about -5.5 is 0 or a negative number of 1e-7, in turns: 1 + erf(x) is all rounding there. Where bits may change,
such turns between values near 0 are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.functions import affine
from rebnn_mm.deploy.graph.passes.signs import same_side, side_of
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit, unit_fed_by, units
from rebnn_mm.deploy.operation.reference import finish
from rebnn_mm.deploy.operation.steps import sides_of

_POINTWISE = """gelu silu hardswish hardsigmoid sigmoid tanh mish elu selu softplus relu relu6 hardtanh clamp clamp_min
clamp_max leaky_relu""".split()
# torch computes the last elements of a tensor, where they fill no vector, by other code, which may round otherwise:
# rows of whole vectors have none
_VECTOR = 32
_MOST = 1 << 23  # integers times channels: tables beyond are not worth their time
_SERIAL = 1 << 14  # elements of a call that torch gives to one thread
_NEAR = 1e-6  # of the largest number that a value is computed of: as far from 0 as rounding leads


def pass_thresholds(traced: Traced, exact: bool = True) -> None:
    """``unit -> pointwise operators -> units``: the first returns signs alone, which the others share."""
    for node in units(traced.graph):
        unit = Unit.of(node)
        assert unit is not None
        calls = _pointwise_behind(node)
        readers = list(calls[-1].users) if calls else []
        if unit.signs or unit.residual is not None or not readers or not _all_fed_by(calls[-1], readers, unit.target):
            continue
        if not same_side(traced, readers) or (exact and unit.spec.c_out % _VECTOR):
            continue
        reader = Unit.of(readers[0])
        assert reader is not None
        steps = _steps(traced, unit, calls, reader, exact)
        if steps is None:
            continue
        tensors = {name: unit.tensors[name] for name in side_of(unit)}
        for name, value in steps.items():
            tensors[name] = traced.add_constant(f"{unit.bits.target}.{name}", value)
        with traced.graph.inserting_before(node):
            signs = replace(unit, tensors=tensors, clamp=None, signs=True, floats=False).call(traced.graph)
        signs.meta = dict(node.meta)
        for user in readers:
            other = Unit.of(user)
            assert other is not None
            rest = {name: value for name, value in other.tensors.items() if name not in side_of(other)}
            with traced.graph.inserting_before(user):
                new = replace(other, x=signs, tensors=rest).call(traced.graph)
            new.meta = dict(user.meta)
            user.replace_all_uses_with(new)
            traced.graph.erase_node(user)
    traced.tidy()


def _pointwise_behind(node: fx.Node) -> list[fx.Node]:
    """Pointwise calls behind ``node``, each the only reader of the one before."""
    calls: list[fx.Node] = []
    while len(node.users) == 1:
        (node,) = node.users
        if not _is_pointwise(node):
            break
        calls.append(node)
    return calls


def _is_pointwise(node: fx.Node) -> bool:
    name = str(node.target)
    known = name.startswith("aten.") and name.split(".")[1] in _POINTWISE
    return node.op == "call_function" and known and len(node.all_input_nodes) == 1


def _all_fed_by(node: fx.Node, readers: list[fx.Node], kind: Any) -> bool:
    """Whether all readers are units of this kind whose input ``node`` is, and nothing else of them."""
    fed = [unit_fed_by(node, reader) for reader in readers]
    return all(unit is not None and unit.target == kind for unit in fed)


def _steps(traced: Traced, unit: Unit, calls: list[fx.Node], reader: Unit, exact: bool) -> dict[str, Tensor] | None:
    """Tensors of the unit that gives the reader's signs from the integer; None where they change too often."""
    counts = _counts(unit)
    if counts.numel() * unit.spec.c_out > _MOST:
        return None
    constants = [{name: traced.constant(node) for name, node in u.tensors.items()} for u in (unit, reader)]
    if any(value is None for named in constants for value in named.values()):
        return None
    own, others = constants
    after = sides_of(own, unit.clamp, unit.residual_last, False, True)[1]  # type: ignore[arg-type]
    side = sides_of({**others, "alpha": own["alpha"]}, None, False, False, True)[0]  # type: ignore[arg-type,dict-item]
    rows, sources = [], []
    with torch.no_grad():
        for block in counts.split(max(1, _SERIAL // unit.spec.c_out)):
            y = block.view(-1, 1, 1, 1).expand(-1, unit.spec.c_out, 1, 1)
            y = finish(y, after, None).flatten(1).contiguous()
            sources.append(y.abs())
            for call in calls:
                y = call.target(y, *call.args[1:], **call.kwargs)  # type: ignore[operator]
            y = y if side.shift is None else y + side.shift
            rows.append(y if side.norm is None else affine(y, *side.norm))
    values = torch.cat(rows)
    found = _Changes.of(values >= 0 if exact else _settled(values, torch.cat(sources)), counts)
    return None if found is None else found.tensors()


def _settled(values: Tensor, sources: Tensor) -> Tensor:
    """Signs of (integers, C) values as bools, without turns between values near 0 in front of the last two, or one.

    Rounding is that of ``sources``, as large as ``values``: the sizes of what they were computed of.
    """
    positive = values >= 0
    later = (positive[1:] != positive[:-1]).flip(0).cumsum(0).flip(0)  # turns from here on
    kept = torch.where(later[:1] % 2 == 0, 2, 1)
    settled = positive.clone()
    settled[:-1] = torch.where(later > kept, positive[:1], positive[:-1])
    near = values.abs() <= _NEAR * sources
    return torch.where(((settled == positive) | near).all(0), settled, positive)


def _counts(unit: Unit) -> Tensor:
    """All integers that a product may be; zeros of a padding make room for those between."""
    shape = unit.spec.weight_shape
    most = shape[1] * shape[2] * shape[3]
    step = 1 if any(unit.spec.padding) else 2
    return torch.arange(-most, most + 1, step, dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class _Changes:
    """Where the signs of each channel change, (C,) each.

    Attributes:
        first: The sign of the lowest integer.
        count: Changes, 0 to 2.
        low, high: Integers or halves between which one they are; both are the same where there is one.
    """

    first: Tensor
    count: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, positive: Tensor, counts: Tensor) -> _Changes | None:
        """Read (integers, C) of bool; None if a channel changes more than twice."""
        changes = positive[1:] != positive[:-1]
        count = changes.sum(0)
        if int(count.max()) > 2:
            return None
        middles = (counts[1:] + counts[:-1]) / 2
        places = changes.to(torch.uint8)
        low = middles[places.argmax(0)]
        high = middles[len(middles) - 1 - places.flip(0).argmax(0)]
        return cls(positive[0], count, low, high)

    def tensors(self) -> dict[str, Tensor]:
        """``sign(scale * |n - middle| + offset)``, the absolute value only for channels that change twice.

        All numbers are halves of integers far below 2**24: nothing is rounded.
        """
        twice, once = self.count == 2, self.count == 1
        up = torch.where(self.first, 1.0, -1.0).float()
        ones = torch.ones_like(up)
        # no change: 0 n + the sign; one: it is turned from the first sign on; two: it has the first sign far outside
        scale = torch.where(twice, up, torch.where(once, -up, torch.zeros_like(up)))
        if not bool(twice.any()):
            offset = torch.where(once, -scale * self.low, up)
            return dict(alpha=ones, sign_scale=scale, sign_offset=offset)
        middle = torch.where(twice, (self.low + self.high) / 2, torch.where(once, self.low, torch.zeros_like(up)))
        half = (self.high - self.low) / 2
        offset = torch.where(twice, -scale * half, torch.where(once, torch.zeros_like(up), up))
        slope = torch.where(twice, -ones, ones)
        return dict(alpha=ones, before=-middle, slope=slope, sign_scale=scale, sign_offset=offset)
