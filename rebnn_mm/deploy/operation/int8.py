"""A real-valued weight in 8 bits: one integer an element, and one scale for each index of the first dimension.

``weight = values * scale``, rounded once to float32; symmetric, so that 0 stays 0 and no zero point is needed. Integers
are -127..127, as TFLite and onnxruntime have them for weights: with -128 a weight could not change its sign, and
products of two would overflow the pairwise sums of some processors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rebnn_mm.errors import NotFiniteError

LARGEST = 127


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight in 8 bits.

    Attributes:
        values: (C, ...) int8, at least two dimensions.
        scale: (C,) float32, finite and above 0.
    """

    values: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        fits = self.values.dim() > 1 and self.scale.shape == self.values.shape[:1]
        if not fits or self.values.dtype != torch.int8 or self.scale.dtype != torch.float32:
            raise ValueError(
                f"values are int8 (C, ...) and scale is float32 (C,); got {self.values.dtype} "
                f"{tuple(self.values.shape)} and {self.scale.dtype} {tuple(self.scale.shape)}"
            )

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight."""
        return self.values.shape

    def dequantize(self) -> Tensor:
        """The weight as float32."""
        return dequantize(self.values, self.scale)


def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """``values * scale``, the scale along the first dimension, as float32."""
    return values.float() * scale.view(-1, *[1] * (values.dim() - 1))


def quantize(weight: Tensor, scale: Tensor | None = None, name: str = "a weight") -> QuantizedTensor:
    """Round a float32 weight, (C, ...), to the nearest of 255 steps, ties to the even one.

    Args:
        weight: At least two dimensions.
        scale: (C,), size of a step; None takes the largest value of each row divided by 127, which then is exact up to
            float32's rounding. Rows of zeros get 1.
        name: For the message.

    Raises:
        NotFiniteError: A value is NaN or infinite.
    """
    weight = weight.detach()
    if scale is None:
        largest = weight.abs().flatten(1).amax(dim=1)
        if not largest.isfinite().all():
            raise NotFiniteError(f"{name} holds NaN or infinity, which 8 bits cannot: was the training stable?")
        # below the smallest normal number a step has no precision, and its inverse may overflow
        scale = (largest / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        scale[largest == 0] = 1.0
    # times the inverse, as torch's own quantization does, which torch 2.13 gives up
    steps = (weight * (1 / scale).view(-1, *[1] * (weight.dim() - 1))).round()
    return QuantizedTensor(steps.clamp_(-LARGEST, LARGEST).to(torch.int8).contiguous(), scale)
