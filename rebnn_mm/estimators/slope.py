"""The slope of an estimator by itself, for a backward that computes it from what the sign was taken of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Slope:
    """What a gradient is multiplied with on its way through a sign.

    Attributes:
        of: ``x`` -> the slope at ``x``, as ``x`` or a bool.
        peak: Its largest value; the smallest is 0.
    """

    of: Callable[[Tensor], Tensor]
    peak: float
