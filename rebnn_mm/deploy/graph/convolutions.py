"""Real-valued convolutions and linear layers of a graph: what a call says, and a norm behind one put into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.operation.spec import ConvSpec

CONV = torch.ops.aten.conv2d.default
LINEAR = torch.ops.aten.linear.default
_DEFAULTS = (None, None, None, [1, 1], [0, 0], [1, 1], 1)


@dataclass(frozen=True)
class ConvCall:
    """The constants and sizes of a ``conv2d``, or of what takes the same arguments."""

    weight: Tensor
    bias: Tensor | None
    spec: ConvSpec

    @classmethod
    def read(cls, traced: Traced, node: fx.Node) -> ConvCall | None:
        """None if weight or bias is computed, or the padding is a word."""
        arguments: Any = (*node.args, *_DEFAULTS[len(node.args) :])
        _, weight_node, bias_node, stride, padding, dilation, groups = arguments
        weight, bias = traced.constant(weight_node), traced.constant(bias_node)
        if weight is None or weight.dim() != 4 or (bias is None) != (bias_node is None) or isinstance(padding, str):
            return None
        spec = ConvSpec.of(weight.shape, _pair(stride), _pair(padding), _pair(dilation), groups)
        return cls(weight, bias, spec)


def _pair(value: Any) -> Any:
    """Torch also takes one integer in a list for two."""
    return value[0] if not isinstance(value, int) and len(value) == 1 else value


def only_reader(node: fx.Node) -> fx.Node | None:
    """The only call that reads ``node``, if that is its first argument."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].args and users[0].args[0] is node else None


def fold_norm(traced: Traced, norm: fx.Node) -> None:
    """``affine(layer(x, w, b), scale, offset)`` -> ``layer(x, w * scale, b * scale + offset)``, equal up to rounding.

    Args:
        traced: Is changed in place, unless a constant is computed, or others read the layer.
        norm: An affine; in front of it stands anything.
    """
    layer = norm.args[0]
    if not isinstance(layer, fx.Node) or layer.target not in (CONV, LINEAR) or len(layer.users) != 1:
        return
    if layer.target == LINEAR and norm.meta.get("rank") != 2:
        return  # an affine's channels are the second dimension, a linear layer's the last
    bias_node = layer.args[2] if len(layer.args) > 2 else None
    weight, scale, offset = (traced.constant(n) for n in (layer.args[1], *norm.args[1:3]))
    bias = traced.constant(bias_node)
    if weight is None or scale is None or offset is None or (bias is None) != (bias_node is None):
        return
    folded = (weight * scale.view(-1, *[1] * (weight.dim() - 1))).contiguous()
    moved = offset if bias is None else bias * scale + offset
    name = str(layer.args[1].target)  # type: ignore[union-attr]
    constants = [traced.add_constant(f"{name}.{part}", v) for part, v in (("folded", folded), ("moved", moved))]
    with traced.graph.inserting_before(norm):
        arguments = (layer.args[0], *constants, *layer.args[3:])
        new = traced.graph.call_function(layer.target, arguments, dict(layer.kwargs))  # type: ignore[arg-type]
    new.meta = dict(norm.meta)
    norm.replace_all_uses_with(new)
