"""Comparisons with 0 as what XNNPACK takes: attention on bits asks for signs, and for weights that are 0 or 1.

ExecuTorch's own kernels compare and convert one element after the other: four fifths of a BERT's time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from rebnn_mm.deploy.graph.capture import Traced
from rebnn_mm.deploy.graph.unit import LINEAR, Unit
from rebnn_mm.deploy.targets.executorch.edge_passes import call, constant

_aten = torch.ops.aten
_VIEWS = {
    *(_aten.reshape.default, _aten.view.default, _aten.unflatten.int, _aten.flatten.using_ints, _aten.transpose.int),
    *(_aten.permute.default, _aten.unsqueeze.default, _aten.squeeze.dim),
}
# the largest power of two. What is smaller than its inverse is no number of full precision, and no layer computes it
STEEP = 2.0**127
_STEPS = ("scale", "before", "slope", "after", "last_scale")


def spell_comparisons(traced: Traced) -> None:
    """``float(x >= 0)`` -> ``clamp(2^127 x + 1, 0, 1)``, and ``2 float(x >= 0) - 1`` -> ``clamp(2^127 x + 1, -1, 1)``.

    Both are exact: of -0 as of 0. Where ``x`` is what a 1-bit linear layer gives, perhaps in another shape, the layer
    gives the result by its own steps.
    """
    for node in list(traced.graph.nodes):
        low, last = _compared(node)
        if last is None:
            continue
        x = node.args[0]
        source = _source(x)
        if source is not None and source.has("alpha") and not source.has(*_STEPS):
            last.replace_all_uses_with(_by_itself(traced, source, x, low))
            continue
        shape = node.meta["shape"]
        with traced.graph.inserting_before(last):
            new = call(traced, _aten.mul.Tensor, (x, STEEP), shape)
            new = call(traced, _aten.add.Tensor, (new, 1.0), shape)
            new = call(traced, _aten.clamp.default, (new, low, 1.0), shape)
        last.replace_all_uses_with(new)
    traced.tidy()


def _compared(node: fx.Node) -> tuple[float, fx.Node | None]:
    """Of ``x >= 0`` of floats, read as floats: what is given for False, and the last node of it; else None."""
    if node.target != _aten.ge.Scalar or node.args[1] != 0 or not node.args[0].meta.get("float"):
        return 0.0, None
    cast = _only(node, _aten.to.dtype)
    if cast is None or cast.args[1] != torch.float32:
        return 0.0, None
    double = _only(cast, _aten.mul.Tensor)
    less = _only(double, _aten.sub.Tensor)
    if double is not None and less is not None and double.args[1] == 2 and less.args == (double, 1):
        return -1.0, less
    return 0.0, cast


def _only(node: fx.Node | None, target: Any) -> fx.Node | None:
    """The one reader of ``node``, if it is a call of ``target`` without options."""
    if node is None or len(node.users) != 1:
        return None
    (reader,) = node.users
    return reader if reader.target == target and not reader.kwargs and reader.args[0] is node else None


def _source(x: fx.Node) -> Unit | None:
    """The 1-bit linear layer whose floats ``x`` are, where nobody else reads them."""
    while x.target in _VIEWS and len(x.users) == 1:
        x = x.args[0]  # type: ignore[assignment]
    unit = Unit.of(x)
    plain = unit is not None and len(x.users) == 1 and unit.target == LINEAR
    return unit if plain and unit.residual is None and unit.clamp is None and not unit.signs else None


def _by_itself(traced: Traced, unit: Unit, x: fx.Node, low: float) -> fx.Node:
    """Let the layer give ``low`` and 1 instead of its floats, whose last view is ``x``; what stands for ``x`` then."""
    node = x
    while node.target in _VIEWS:
        node = node.args[0]  # type: ignore[assignment]
    vectors = dict(scale=torch.full((unit.spec.c_out,), STEEP), offset=torch.ones(unit.spec.c_out))
    with traced.graph.inserting_before(node):
        steps = {name: constant(traced, f"{unit.bits.target}.{name}", vector) for name, vector in vectors.items()}
        new = replace(unit.with_tensors(**steps), clamp=(low, 1.0)).call(traced.graph)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    return new if node is x else x
