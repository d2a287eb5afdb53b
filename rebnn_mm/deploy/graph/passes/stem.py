"""Pool first, then normalise: a quarter of the pixels, and the same bits."""

from __future__ import annotations

import torch
from torch import fx

from rebnn_mm.deploy.graph.functions import max_pool_affine
from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.pools import MaxPool, read_max_pool
from rebnn_mm.deploy.graph.traced import Traced

_aten = torch.ops.aten


def pool_first(traced: Traced) -> None:
    """``max_pool(relu(affine(conv(x))))`` -> ``relu(max_pool_affine(conv(x)))``, for 3x3 pools of stride 2, padding 1.

    Exact: an affine is ``fma(x, scale, offset)`` and rounding keeps order, so it changes places with a maximum where
    scale >= 0. Where it is < 0 the signs of kernel and scale are turned, which changes no bit. A ReLU keeps order too.
    """
    _join(traced)
    for node in list(traced.graph.nodes):
        if not _is_pool(node):
            continue
        relu = node.args[0] if node.args[0].target == _aten.relu.default else None
        norm = relu.args[0] if relu is not None else node.args[0]
        conv = norm.args[0] if is_affine(norm) else None
        if conv is None or conv.target != _aten.conv2d.default or (len(conv.args) > 2 and conv.args[2] is not None):
            continue
        chain = [part for part in (conv, norm, relu) if part is not None]
        if any(len(part.users) != 1 for part in chain):
            continue
        weight, scale, offset = traced.constant(conv.args[1]), traced.constant(norm.args[1]), norm.args[2]
        if weight is None or scale is None or len(conv.args[1].users) != 1 or len(norm.args[1].users) != 1:
            continue
        turn = torch.where(scale < 0, -1.0, 1.0)
        traced.tensors[conv.args[1].target] = weight * turn.view(-1, 1, 1, 1)
        traced.tensors[norm.args[1].target] = scale * turn
        with traced.graph.inserting_before(node):
            new = traced.graph.call_function(max_pool_affine, (conv, norm.args[1], offset))
            new.meta = dict(node.meta)
            if relu is not None:
                new = traced.graph.call_function(_aten.relu.default, (new,))
                new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
    traced.tidy()


def _join(traced: Traced) -> None:
    """``affine(max_pool(x))`` -> ``max_pool_affine(x)``: what a packed network shows where it is captured anew."""
    for node in list(traced.graph.nodes):
        if not is_affine(node) or not _is_pool(node.args[0]) or len(node.args[0].users) != 1:
            continue
        with traced.graph.inserting_before(node):
            new = traced.graph.call_function(max_pool_affine, (node.args[0].args[0], *node.args[1:]))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
    traced.tidy()


def _is_pool(node: fx.Node) -> bool:
    return read_max_pool(node) == MaxPool([3, 3], [2, 2], [1, 1], [1, 1], False)
