"""Trained 1-bit layers as modules that ``torch.export`` captures as one operator each."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rebnn_mm.deploy.layer import ConvSpec, Epilogue, InputSide
from rebnn_mm.deploy.ops import binary_conv2d, binary_linear
from rebnn_mm.deploy.pack import check_layer
from rebnn_mm.deploy.packing import pack_signs
from rebnn_mm.deploy.structure import is_packed
from rebnn_mm.layers import BinaryLinear


class Lowered(nn.Module):
    """A trained layer, its weight packed; what stands around the 1-bit operation stays ordinary torch.

    A pass folds that into the operator as it does with what the network itself has around it.

    Args:
        layer: A :class:`BinaryConv2d` or :class:`BinaryLinear` that is 1-bit on both sides.
    """

    weight: Tensor
    alpha: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        check_layer(type(layer).__name__, layer)
        scale = layer.scale()
        weight = layer.binary_weight()
        self.register_buffer("weight", pack_signs(weight))
        self.register_buffer("alpha", weight.new_ones(len(weight)) if scale is None else scale.flatten().clone())
        self.input_norm = layer.input_norm
        self.shortcut = getattr(layer, "shortcut", False)
        self.bias = layer.bias
        self.is_linear = isinstance(layer, BinaryLinear)
        self.pad: tuple[list[int], str] | None = None
        if self.is_linear:
            self.spec = ConvSpec.linear(*weight.shape)
            return
        zeros = layer.padding_mode == "zeros"
        sides = list(layer._reversed_padding_repeated_twice)  # left, right, top, bottom
        if not zeros:
            self.pad = sides, layer.padding_mode
        padding = (sides[2], sides[0]) if zeros else (0, 0)
        self.spec = ConvSpec(tuple(weight.shape), layer.stride, padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Any:
        """What the trained layer computes in eval mode."""
        shortcut = x
        if self.input_norm is not None:
            x = self.input_norm(x)
        if self.pad is not None:
            x = nn.functional.pad(x, self.pad[0], mode=self.pad[1])
        operator = binary_linear if self.is_linear else binary_conv2d
        y = operator(x, self.weight, self.spec, InputSide(), Epilogue(self.alpha))
        if self.bias is not None:
            y = y + (self.bias if self.is_linear else self.bias.view(-1, 1, 1))
        return y + shortcut if self.shortcut else y


def lower(model: nn.Module) -> nn.Module:
    """Replace all layers of ``model`` that are 1-bit on both sides, in place; returns ``model`` or its own twin."""
    if is_packed(model):
        return Lowered(model)
    twins: dict[nn.Module, Lowered] = {}
    for _, module in list(model.named_modules()):
        for name, child in module._modules.items():
            if child is not None and is_packed(child):
                twins.setdefault(child, Lowered(child))
                module._modules[name] = twins[child]
    return model
