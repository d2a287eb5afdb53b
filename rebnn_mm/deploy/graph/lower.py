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
from rebnn_mm.estimators import ElasticSTE
from rebnn_mm.fast_path import keep_called
from rebnn_mm.layers import BinaryLayer, BinaryLinear


class _LoweredLayer(AsTrained):
    """A trained layer, its weight as bits; what stands around the product of weight and input stays ordinary torch.

    A pass folds that into the operator as it does with what the network itself has around it.

    Args:
        layer: A :class:`BinaryConv2d` or :class:`BinaryLinear`.
    """

    alpha: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__()
        check_layer(type(layer).__name__, layer)
        scale, signs = layer.scale(), layer.binary_weight()
        self._describe(signs.shape, sizes_of_layer(layer))
        self._buffers["weight"] = to_bits(signs)  # under the name that it has in the file
        self.register_buffer("alpha", None if scale is None else scale.flatten().clone())
        self.input_norm, self.bias = layer.input_norm, layer.bias
        self.shortcut = getattr(layer, "shortcut", False)
        self.is_linear = isinstance(layer, BinaryLinear)
        keep_called(self)
        self.pad: Pad | None = None
        if self.is_linear:
            self.spec = ConvSpec.linear(*signs.shape)
            return
        padding, self.pad = padding_of(layer)
        self.spec = ConvSpec(tuple(signs.shape), layer.stride, padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Any:
        """What the trained layer computes in eval mode, in its order."""
        shortcut = x
        if self.input_norm is not None:
            x = self.input_norm(x)
        if self.pad is not None:
            x = nn.functional.pad(x, self.pad[0], mode=self.pad[1])
        y = self._product(x)
        if self.bias is not None:
            y = y + self._beside(self.bias)
        return y + shortcut if self.shortcut else y

    def _beside(self, channels: Tensor) -> Tensor:
        """(C_out,), as it broadcasts over the output."""
        return channels if self.is_linear else channels.view(-1, 1, 1)

    def _product(self, x: Tensor) -> Tensor:
        """The weight times ``x``, scaled."""
        raise NotImplementedError


class Lowered(_LoweredLayer):
    """A layer that is 1-bit on both sides: one operator."""

    shift: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        if self.alpha is None:
            self.alpha = layer.weight.new_ones(len(layer.weight))
        self.register_buffer("shift", None)
        if isinstance(layer.estimator, ElasticSTE):  # the threshold, one a channel, as the operator takes it in
            shift = -layer.estimator.threshold().detach().repeat(self.spec.c_in)
            self.shift = shift if self.is_linear else shift.view(-1, 1, 1)
            del self.bias
            self.register_buffer("bias", layer.offset())

    def _product(self, x: Tensor) -> Any:
        if self.shift is not None:
            x = x + self.shift
        operator = binary_linear if self.is_linear else binary_conv2d
        return operator(x, self._buffers["weight"], self.spec, InputSide(), Epilogue(self.alpha))


class LoweredSigns(_LoweredLayer):
    """A layer with a 1-bit weight and a real-valued input (``weight_only=True``): ordinary torch."""

    def _product(self, x: Tensor) -> Tensor:
        spec = self.spec
        if self.is_linear:
            y = nn.functional.linear(x, self._signs(spec.weight_shape[:2]))
        else:
            weight = self._signs(spec.weight_shape)
            y = nn.functional.conv2d(x, weight, None, spec.stride, spec.padding, spec.dilation, spec.groups)
        return y if self.alpha is None else y * self._beside(self.alpha)

    def _signs(self, shape: tuple[int, ...]) -> Tensor:
        return torch.ops.rebnn_mm.from_bits(self._buffers["weight"], list(shape))


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
