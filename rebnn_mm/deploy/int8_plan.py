"""Linear layers and convolutions on 8-bit integers, by operators of torch: for networks that need not be exact.

Inputs are rounded as they come, to 256 steps between the smallest and the largest value of the whole batch, so a
picture's result depends a little on those beside it. Products are added as integers: any number of threads gives the
same bits.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from rebnn_mm.deploy.int8 import QuantizedTensor, dequantize, quantize
from rebnn_mm.deploy.prepared import Sources, is_recorded
from rebnn_mm.errors import NotFiniteError

# values of a linear layer's weight: with fewer, rounding the input costs more than the integers save
LEAST_LINEAR = 1 << 16


class Int8Linear:
    """``linear(x, dequantize(values, scale), bias)`` on integers.

    Args:
        values: (C_out, C_in) int8.
        scale: (C_out,).
        bias: (C_out,) or None.
    """

    __name__ = "int8_linear"

    def __init__(self, values: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        zero_points = torch.zeros(len(scale), dtype=torch.int64, device="cpu")
        weight = torch._make_per_channel_quantized_tensor(values.contiguous(), scale.double(), zero_points, 0)
        self._packed: Any = torch.ops.quantized.linear_prepack(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., C_in) float32 -> (..., C_out)."""
        try:
            return torch.ops.quantized.linear_dynamic(x.contiguous(), self._packed, False)
        except RuntimeError as error:
            raise _explained(x, error) from error


class IntegerLinear(nn.Module):
    """An ``nn.Linear`` on integers, for layers outside of graphs: a detector's shared ones.

    Args:
        weight: (C_out, C_in).
        bias: (C_out,) or None.
    """

    values: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("values", weight.values)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("bias", bias)
        self._prepared: tuple[Sources, Int8Linear] | None = None

    @property
    def weight(self) -> Tensor:
        """The weight as floats, computed at each access."""
        return dequantize(self.values, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        if is_recorded(x):
            return linear(x, self.weight, self.bias)
        tensors = [tensor for tensor in (self.values, self.scale, self.bias) if tensor is not None]
        if self._prepared is None or not self._prepared[0].are(tensors):
            self._prepared = Sources(tensors), Int8Linear(self.values, self.scale, self.bias)
        return self._prepared[1](x.detach())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Conv2d:
    """``conv2d(x, dequantize(values, scale), bias, ...)`` on integers, in channels-last memory.

    Args:
        values: (C_out, C_in/groups, K_h, K_w) int8.
        scale: (C_out,).
        bias: (C_out,) or None.
        geometry: Stride, padding, dilation (two each) and groups.
    """

    __name__ = "int8_conv2d"

    def __init__(self, values: Tensor, scale: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]) -> None:
        self._values, self._scale, self._bias, self._geometry = values, scale, bias, geometry
        self._zero_points = torch.zeros(len(scale), dtype=torch.int32, device="cpu")
        self._packed: Tensor | None = None  # made for the first input's size, good for all

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) float32 -> (N, C_out, H', W'), channels last."""
        if not x.numel():
            return conv2d(x, dequantize(self._values, self._scale), self._bias, *self._geometry)
        x = x.contiguous(memory_format=torch.channels_last)
        try:
            rounded = torch.quantize_per_tensor_dynamic(x, torch.quint8, False)
            step, zero = rounded.q_scale(), rounded.q_zero_point()
            if self._packed is None:
                self._packed = torch.ops.onednn.qconv_prepack(
                    self._values.contiguous(), self._scale, step, zero, *self._geometry, list(x.shape)
                )
            return torch.ops.onednn.qconv2d_pointwise(
                *(rounded.int_repr(), step, zero, self._packed, self._scale, self._zero_points, self._bias),
                *self._geometry,
                *(1.0, 0, torch.float32, "none", [], ""),
            )
        except RuntimeError as error:
            raise _explained(x, error) from error


def _explained(x: Tensor, error: RuntimeError) -> Exception:
    if x.isfinite().all():
        return error
    return NotFiniteError(
        "the input of a layer in 8 bits holds NaN or infinity, which 8 bits cannot: give finite images, or load the "
        "network with exact=True to see where they come from"
    )


@cache
def supported() -> bool:
    """Whether this torch has these operators and this processor multiplies 8-bit integers fast (AVX-512 VNNI)."""
    if not getattr(torch.cpu, "_is_vnni_supported", bool)():
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 6, 6, generator=generator, dtype=torch.float32, device="cpu")
    weight = quantize(torch.randn(8, 4, 3, 3, generator=generator, dtype=torch.float32, device="cpu"))
    flat = quantize(weight.dequantize().flatten(1))
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    try:
        found = Int8Conv2d(weight.values, weight.scale, None, geometry)(x)
        product = Int8Linear(flat.values, flat.scale)(x.flatten()[:36].view(1, 36))
    except (RuntimeError, AttributeError, TypeError):  # operators of torch's own use: they come and go
        return False
    expected = conv2d(x, weight.dequantize(), None, *geometry)
    return _close(found, expected) and _close(product, linear(x.flatten()[:36].view(1, 36), flat.dequantize()))


def _close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
