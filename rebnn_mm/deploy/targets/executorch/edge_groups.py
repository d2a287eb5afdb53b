"""Group norms as what XNNPACK takes; ExecuTorch's own kernel refuses images that lie in memory as NHWC."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.targets.executorch.edge_passes import call, constant

_aten = torch.ops.aten


def spell_group_norms(traced: Traced) -> None:
    """``group_norm(x)`` -> means over pixels, then over the channels of a group, of ``x`` and of its square."""
    for node in list(traced.graph.nodes):
        if node.target != _aten.group_norm.default or len(node.meta["shape"]) != 4:
            continue
        x, groups, *rest = node.args
        weight, bias, eps = (*rest[:3], *(None, None, 1e-5)[len(rest[:3]) :])
        affine = [None if vector is None else traced.constant(vector) for vector in (weight, bias)]
        if any(given is not None and value is None for given, value in zip((weight, bias), affine, strict=True)):
            continue
        shape = node.meta["shape"]
        with traced.graph.inserting_before(node):
            centred = call(traced, _aten.sub.Tensor, (x, _group_mean(traced, x, groups)), shape)
            square = call(traced, _aten.mul.Tensor, (centred, centred), shape)
            variance = _group_mean(traced, square, groups)
            small = (*shape[:2], 1, 1)
            variance = call(traced, _aten.add.Tensor, (variance, _vector(traced, node, "eps", eps)), small)
            scale = call(traced, _aten.rsqrt.default, (variance,), small)
            if affine[0] is not None:
                scale = call(traced, _aten.mul.Tensor, (scale, _vector(traced, node, "weight", affine[0])), small)
            new = call(traced, _aten.mul.Tensor, (centred, scale), shape)
            if affine[1] is not None:
                new = call(traced, _aten.add.Tensor, (new, _vector(traced, node, "bias", affine[1])), shape)
        node.replace_all_uses_with(new)
    traced.tidy()


def _vector(traced: Traced, node: fx.Node, name: str, value: Any) -> fx.Node:
    """(1, C, 1, 1), or one number, (1, 1, 1, 1), as a constant."""
    return constant(traced, f"{node.name}.{name}", torch.as_tensor(value, dtype=torch.float32).view(1, -1, 1, 1))


def _group_mean(traced: Traced, x: fx.Node, groups: int) -> fx.Node:
    """Mean of each group's pixels and channels, (N, C, 1, 1)."""
    n, c = x.meta["shape"][:2]
    row, small = (n, groups, 1, c // groups), (n, c, 1, 1)
    mean = call(traced, _aten.mean.dim, (x, [2, 3], True), small)
    mean = call(traced, _aten.reshape.default, (mean, list(row)), row)
    mean = call(traced, _aten.mean.dim, (mean, [2, 3], True), (n, groups, 1, 1))
    # a sum with zeros repeats it for each channel of the group
    zeros = constant(traced, f"{x.name}.zeros", torch.zeros(1, groups, 1, c // groups))
    mean = call(traced, _aten.add.Tensor, (mean, zeros), row)
    return call(traced, _aten.reshape.default, (mean, list(small)), small)
