"""Trained 1-bit layers as modules that ``torch.export`` captures as one operator each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.layers.facts import AsTrained, sizes_of_layer
from rebnn_mm.deploy.layers.operators import binary_conv2d, binary_linear
from rebnn_mm.deploy.layers.packable import Pad, check_layer, is_packed, padding_of
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide
from rebnn_mm.fast_path import keep_called
from rebnn_mm.layers import BinaryLayer, BinaryLinear


class Lowered(AsTrained):
    """A trained layer, its weight as bits; what stands around the 1-bit operation stays ordinary torch.

    A pass folds that into the operator as it does with what the network itself has around it.

    Args:
        layer: A :class:`BinaryConv2d` or :class:`BinaryLinear` that is 1-bit on both sides.
    """

    alpha: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        check_layer(type(layer).__name__, layer)
        scale = layer.scale()
        weight = layer.binary_weight()
        self._describe(weight.shape, sizes_of_layer(layer))
        self._buffers["weight"] = to_bits(weight)  # under the name that it has in the file
        self.register_buffer("alpha", weight.new_ones(len(weight)) if scale is None else scale.flatten().clone())
        self.input_norm = layer.input_norm
        self.shortcut = getattr(layer, "shortcut", False)
        self.bias = layer.bias
        self.is_linear = isinstance(layer, BinaryLinear)
        keep_called(self)
        self.pad: Pad | None = None
        if self.is_linear:
            self.spec = ConvSpec.linear(*weight.shape)
            return
        padding, self.pad = padding_of(layer)
        self.spec = ConvSpec(tuple(weight.shape), layer.stride, padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Any:
        """What the trained layer computes in eval mode."""
        shortcut = x
        if self.input_norm is not None:
            x = self.input_norm(x)
        if self.pad is not None:
            x = nn.functional.pad(x, self.pad[0], mode=self.pad[1])
        operator = binary_linear if self.is_linear else binary_conv2d
        y = operator(x, self._buffers["weight"], self.spec, InputSide(), Epilogue(self.alpha))
        if self.bias is not None:
            y = y + (self.bias if self.is_linear else self.bias.view(-1, 1, 1))
        return y + shortcut if self.shortcut else y


class LoweredSigns(AsTrained):
    """A trained layer with a 1-bit weight and a real-valued input: ordinary torch on a weight that is stored as bits.

    Args:
        layer: A :class:`BinaryConv2d` or :class:`BinaryLinear` with ``weight_only=True``.
    """

    alpha: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__()
        check_layer(type(layer).__name__, layer)
        scale, signs = layer.scale(), layer.binary_weight()
        self._describe(signs.shape, sizes_of_layer(layer))
        self._buffers["weight"] = to_bits(signs)
        self.register_buffer("alpha", None if scale is None else scale.flatten().clone())
        self.shape = list(signs.shape)
        self.input_norm, self.bias = layer.input_norm, layer.bias
        self.shortcut = getattr(layer, "shortcut", False)
        self.is_linear = isinstance(layer, BinaryLinear)
        keep_called(self)
        if not self.is_linear:
            padding, self.pad = padding_of(layer)
            self.geometry = (layer.stride, padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Any:
        """What the trained layer computes in eval mode, in its order."""
        shortcut = x
        if self.input_norm is not None:
            x = self.input_norm(x)
        weight = torch.ops.rebnn_mm.from_bits(self._buffers["weight"], self.shape)
        if self.is_linear:
            y = nn.functional.linear(x, weight)
        else:
            if self.pad is not None:
                x = nn.functional.pad(x, self.pad[0], mode=self.pad[1])
            y = nn.functional.conv2d(x, weight, None, *self.geometry)
        around = (-1,) if self.is_linear else (-1, 1, 1)
        if self.alpha is not None:
            y = y * self.alpha.view(around)
        if self.bias is not None:
            y = y + self.bias.view(around)
        return y + shortcut if self.shortcut else y


def _twin(layer: nn.Module) -> nn.Module | None:
    if is_packed(layer):
        return Lowered(layer)
    one_sided = isinstance(layer, BinaryLayer) and layer.binarizes_weight
    return LoweredSigns(layer) if one_sided else None


def lower(model: nn.Module) -> nn.Module:
    """Replace all layers of ``model`` with 1-bit weights, in place; returns ``model`` or its own twin."""
    own = _twin(model)
    if own is not None:
        return own
    twins: dict[nn.Module, nn.Module] = {}
    for module in list(model.modules()):
        for name, child in module._modules.items():
            twin = None if child is None else twins.get(child) or _twin(child)
            if child is not None and twin is not None:
                module._modules[name] = twins[child] = twin
    return model
