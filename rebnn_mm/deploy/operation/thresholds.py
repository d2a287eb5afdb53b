"""Where functions that rise or fall with a float32 number change their sign, found exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Turn:
    """Of each channel, (C,) each.

    Attributes:
        first: Whether the function is at least 0 for the lowest finite number.
        last: Whether it is for the largest one; the sign is the same for all where both are the same.
        below: The largest number with the first sign.
        above: The next one, which has the last sign.
    """

    first: Tensor
    last: Tensor
    below: Tensor
    above: Tensor

    @classmethod
    def of(cls, channels: int, positive: Callable[[Tensor], Tensor]) -> Turn:
        """By bisection over all finite numbers: rounding keeps their order.

        Args:
            channels: How many.
            positive: (C,) float32 -> (C,) bool, whether the function of each channel is at least 0.
        """
        lowest, largest = (
            torch.full((channels,), end, dtype=torch.float32, device="cpu") for end in (-LARGEST, LARGEST)
        )
        first, last = positive(lowest), positive(largest)
        below, above = _place(lowest), _place(largest)
        for _ in range(32):  # there are fewer than 2**32 numbers
            middle = (below + above) // 2
            as_first = positive(_number(middle)) == first
            below, above = torch.where(as_first, middle, below), torch.where(as_first, above, middle)
        return cls(first, last, _number(below), _number(above))


def _place(x: Tensor) -> Tensor:
    """float32 -> int64 in the same order, neighbours next to each other."""
    bits = x.view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _number(place: Tensor) -> Tensor:
    """The inverse of :func:`_place`."""
    x = place.abs().int().view(torch.float32)
    return torch.where(place < 0, -x, x)
