"""A byte for each element of a layer's input, in place of the input: its sign, and its slope in 7 bits.

The backward needs no more of the input than these. The slope of :class:`rebnn_mm.estimators.Slope` lies in
[0, peak] and is rounded to the nearest of 128 values, so each element of ``dL/dx`` has an error of at most
``peak / 254`` times the gradient that reaches it. Slopes of 0 and of the peak are exact, and with them the clipped
estimator's. Gradients of weight, scale and bias are exact: they need the sign alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.estimators import Slope

_STEPS = 127


def keep_input(x: Tensor, slope: Slope) -> Tensor:
    """uint8 as ``x``: bit 7 is ``x >= 0``, the others the slope in steps of ``peak / 127``."""
    steps = slope.of(x).to(x.dtype).mul_(_STEPS / slope.peak).round_().nan_to_num_(0).to(torch.uint8)
    return steps.add_((x >= 0).to(torch.uint8), alpha=_STEPS + 1)


def kept_sign(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """The sign, in {-1, +1}."""
    return (kept > _STEPS).to(dtype).mul_(2).sub_(1)


def kept_slope(kept: Tensor, slope: Slope, dtype: torch.dtype) -> Tensor:
    """The slope to within ``peak / 254``."""
    return kept.bitwise_and(_STEPS).to(dtype).mul_(slope.peak / _STEPS)
