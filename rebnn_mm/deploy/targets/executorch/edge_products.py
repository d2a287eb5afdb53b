"""Attention and batched products as what XNNPACK takes: products of two batches of matrices.

ExecuTorch would decompose both itself, into copies and comparisons that its portable kernels run.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import torch
from torch import fx

from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.targets.executorch.edge_passes import call

_aten = torch.ops.aten
_ATTENTION = _aten.scaled_dot_product_attention.default


def spell_attention(traced: Traced) -> None:
    """``scaled_dot_product_attention`` -> ``softmax(q k^T * scale + mask) v``, with a mask that is added, or none."""
    for node in list(traced.graph.nodes):
        if node.target != _ATTENTION or not _is_plain(node):
            continue
        q, k, v = node.args[:3]
        mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
        *leading, rows, depth = q.meta["shape"]
        columns = k.meta["shape"][-2]
        scale = node.kwargs.get("scale")
        scale = 1 / sqrt(depth) if scale is None else float(scale)
        with traced.graph.inserting_before(node):
            turned = call(traced, _aten.transpose.int, (k, -2, -1), (*leading, depth, columns))
            scaled = call(traced, _aten.mul.Tensor, (q, scale), (*leading, rows, depth))
            scores = call(traced, _aten.matmul.default, (scaled, turned), (*leading, rows, columns))
            if mask is not None:
                scores = call(traced, _aten.add.Tensor, (scores, mask), (*leading, rows, columns))
            weights = call(traced, _aten.softmax.int, (scores, -1), (*leading, rows, columns))
            new = call(traced, _aten.matmul.default, (weights, v), node.meta["shape"])
        node.replace_all_uses_with(new)
        traced.graph.erase_node(node)  # torch takes attention for random, and would keep it
    traced.tidy()


def _is_plain(node: fx.Node) -> bool:
    given: dict[str, Any] = {**dict(zip(("attn_mask", "dropout_p", "is_causal"), node.args[3:], strict=False))}
    given.update(node.kwargs)
    mask = given.get("attn_mask")
    causal = bool(given.get("is_causal")) or bool(given.get("enable_gqa"))
    adds = mask is None or mask.meta.get("float", False)
    shapes = [part.meta["shape"][:-2] for part in node.args[:3]]
    return not causal and not given.get("dropout_p") and adds and shapes[0] == shapes[1] == shapes[2]


def spell_products(traced: Traced) -> None:
    """``matmul`` of more than two dimensions, the same leading ones on both sides -> ``bmm`` between reshapes."""
    for node in list(traced.graph.nodes):
        if node.target != _aten.matmul.default:
            continue
        a, b = (part.meta["shape"] for part in node.args)
        if len(a) != len(b) or len(a) < 3 or a[:-2] != b[:-2]:
            continue
        batch = prod(a[:-2])
        with traced.graph.inserting_before(node):
            flat = [
                call(traced, _aten.reshape.default, (x, [batch, *shape[-2:]]), (batch, *shape[-2:]))
                for x, shape in zip(node.args, (a, b), strict=True)
            ]
            product = call(traced, _aten.bmm.default, tuple(flat), (batch, a[-2], b[-1]))
            new = call(traced, _aten.reshape.default, (product, [*a[:-1], b[-1]]), (*a[:-1], b[-1]))
        node.replace_all_uses_with(new)
    traced.tidy()
