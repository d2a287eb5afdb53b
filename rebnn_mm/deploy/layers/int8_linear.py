"""Linear layers on 8-bit integers, by operators of torch: for networks that need not be exact.

Inputs are rounded as they come, to 256 steps between the smallest and the largest value of the whole batch, so a
picture's result depends a little on those beside it. Products are added as integers: any number of threads gives the
same bits.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rebnn_mm.deploy.layers.prepared import Sources, is_recorded
from rebnn_mm.deploy.operation.int8 import QuantizedTensor, dequantize, quantize
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
        with warnings.catch_warnings():
            # torch 2.13 warns of tensors of this kind, which its fast products need
            warnings.filterwarnings("ignore", ".*quantized tensor creation functions", UserWarning)
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
    x, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu") for shape in ((2, 36), (8, 36))
    )
    rounded = quantize(weight)
    try:
        found = Int8Linear(rounded.values, rounded.scale)(x)
    except (RuntimeError, AttributeError, TypeError):  # operators of torch's own use: they come and go
        return False
    expected = linear(x, rounded.dequantize())
    return float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
