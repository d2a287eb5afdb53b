"""Linear layers whose weights are in 8 bits, computed on integers: for networks that need not be exact."""

from __future__ import annotations

import torch
from torch import fx

from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.layers.int8_linear import LEAST_LINEAR, Int8Linear, supported
from rebnn_mm.deploy.operation.int8 import dequantize

_LINEAR = torch.ops.aten.linear.default


def compute_on_integers(traced: Traced) -> None:
    """``linear`` of a dequantized weight -> :class:`Int8Linear`.

    Convolutions stay in float: torch's on integers were measured, and with the rounding of their inputs are no faster
    than the prepacked ones that have norm and pool inside (docs/performance.md). Nothing changes where torch has no
    fast operators for this processor.
    """
    if not supported():
        return
    for node in list(traced.graph.nodes):
        weight = node.args[1] if node.target is _LINEAR and len(node.args) > 1 else None
        if not isinstance(weight, fx.Node) or weight.target is not dequantize or node.kwargs:
            continue
        values, scale = (traced.constant(part) for part in weight.args)
        bias_node = node.args[2] if len(node.args) > 2 else None
        bias = traced.constant(bias_node)
        if values is None or scale is None or (bias_node is not None and bias is None):
            continue
        if values.dim() == 2 and values.numel() >= LEAST_LINEAR:
            with traced.graph.inserting_before(node):
                new = traced.graph.call_function(Int8Linear(values, scale, bias), (node.args[0],))
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
    traced.tidy()
