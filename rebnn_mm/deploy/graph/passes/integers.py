"""Real-valued layers whose weights are in 8 bits, computed on integers: for networks that need not be exact."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.capture import Traced
from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.int8 import dequantize
from rebnn_mm.deploy.int8_plan import LEAST_LINEAR, Int8Conv2d, Int8Linear, supported

_LINEAR, _CONV = torch.ops.aten.linear.default, torch.ops.aten.conv2d.default


def compute_on_integers(traced: Traced) -> None:
    """``linear`` and ``conv2d`` of dequantized weights -> :class:`Int8Linear`, :class:`Int8Conv2d`, norms folded in.

    Nothing changes where torch has no fast operators for this processor.
    """
    if not supported():
        return
    for node in list(traced.graph.nodes):
        weight = node.args[1] if node.target in (_LINEAR, _CONV) and len(node.args) > 1 else None
        if not isinstance(weight, fx.Node) or weight.target is not dequantize:
            continue
        values, scale = (traced.constant(part) for part in weight.args)
        bias_node = node.args[2] if len(node.args) > 2 else None
        bias = traced.constant(bias_node)
        if values is None or scale is None or node.kwargs or (bias_node is not None and bias is None):
            continue
        if node.target is _LINEAR:
            if values.dim() == 2 and values.numel() >= LEAST_LINEAR:
                _put(traced, node, node, Int8Linear(values, scale, bias))
        else:
            _convolve(traced, node, values, scale, bias)
    traced.tidy()


def _convolve(traced: Traced, node: fx.Node, values: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    given = node.args[3:]
    stride, padding, dilation, groups = (*given, *([1, 1], [0, 0], [1, 1], 1)[len(given) :])
    geometry = (*map(_both, (stride, padding, dilation)), groups)
    source = node.args[0]
    if groups != 1 or values.dim() != 4 or not isinstance(source, fx.Node) or source.meta.get("rank") != 4:
        return  # a depthwise convolution has too few products for a rounded input
    last = node
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if is_affine(user) and user is not None and user.args[0] is node:
        norm, offset = traced.constant(user.args[1]), traced.constant(user.args[2])
        if norm is not None and offset is not None:
            # a scale is above 0: a norm's sign goes to the integers
            values = values * torch.where(norm < 0, -1, 1).to(torch.int8).view(-1, 1, 1, 1)
            scale = (scale * norm.abs()).clamp_min(torch.finfo(torch.float32).tiny)
            bias = offset if bias is None else bias * norm + offset
            last = user
    _put(traced, node, last, Int8Conv2d(values, scale, bias, geometry))


def _put(traced: Traced, first: fx.Node, last: fx.Node, plan: Any) -> None:
    """Let ``plan`` compute what the nodes from ``first`` to ``last`` do."""
    with traced.graph.inserting_before(last):
        new = traced.graph.call_function(plan, (first.args[0],))
    new.meta = dict(last.meta)
    last.replace_all_uses_with(new)


def _both(value: Any) -> list[int]:
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    return given * 2 if len(given) == 1 else given
