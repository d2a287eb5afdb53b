"""Batch norms in eval mode as a scale and an offset of each channel, bit for bit."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from rebnn_mm.deploy.graph.functions import affine
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.operation.reference import fold_batch_norm

_aten = torch.ops.aten
_FUNCTIONAL = _aten._native_batch_norm_legit_no_training.default  # (x, weight, bias, mean, var, momentum, eps)


def fold_norms(traced: Traced) -> None:
    """``batch_norm(x, ...)`` -> ``affine(x, scale, offset)``, with constants ``<norm>.scale`` and ``<norm>.offset``.

    torch computes with these two where ``x`` is dense in memory. Of a transposed map, or a part of one, it subtracts
    the mean first, which rounds otherwise: such norms stay as they are.
    """
    for node in list(traced.graph.nodes):
        if node.target == _aten.batch_norm.default and not node.args[5]:
            result, eps = node, node.args[7]
        elif node.target == _FUNCTIONAL and all(user.target is operator.getitem for user in node.users):
            first = [user for user in node.users if user.args[1] == 0]
            if len(first) != len(node.users) or len(first) != 1:
                continue
            result, eps = first[0], node.args[6]
        else:
            continue
        if not _is_dense(node.args[0].meta.get("val")):
            continue
        weight, bias, mean, var = (traced.constant(argument) for argument in node.args[1:5])
        if (
            mean is None
            or var is None
            or any(
                given is not None and constant is None
                for given, constant in zip(node.args[1:3], (weight, bias), strict=True)
            )
        ):
            continue
        scale, offset = fold_batch_norm(_norm(mean, var, weight, bias, eps))
        name = str(node.args[3].target).rpartition(".")[0]
        constants = [traced.add_constant(f"{name}.{part}", v) for part, v in (("scale", scale), ("offset", offset))]
        with traced.graph.inserting_before(result):
            new = traced.graph.call_function(affine, (node.args[0], *constants))
        new.meta["val"] = result.meta.get("val", node.args[0].meta.get("val"))
        result.replace_all_uses_with(new)
    traced.tidy()


def _is_dense(value: Any) -> bool:
    if not isinstance(value, Tensor):
        return True
    return value.is_contiguous() or (value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last))


def _norm(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> nn.BatchNorm2d:
    norm: Any = nn.BatchNorm2d(len(mean), eps=eps, affine=False, device="meta", dtype=torch.float32)
    norm.running_mean, norm.running_var = mean, var
    norm.weight = None if weight is None else nn.Parameter(weight, False)
    norm.bias = None if bias is None else nn.Parameter(bias, False)
    return norm


def is_affine(node: Any) -> bool:
    """Whether ``node`` scales and shifts channels by constants."""
    return isinstance(node, fx.Node) and node.target is affine
