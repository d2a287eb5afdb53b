"""The steps in front of a sign as one comparison: what OpenVINO's binarization takes.

``fma(x + shift, scale, offset) >= 0`` holds for each channel on one side of one number, as rounding keeps the order. It
is found by bisection over the float32 numbers with the very steps that the run-time takes, so no sign differs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.deploy.operation.reference import input_side
from rebnn_mm.deploy.operation.steps import InputSide

_LARGEST = torch.finfo(torch.float32).max
_SMALLEST = torch.finfo(torch.float32).tiny  # below it are numbers that a processor may take for 0


def sign_thresholds(side: InputSide, channels: int) -> tuple[Tensor, Tensor]:
    """(thresholds, falling), both (channels,): the sign is +1 where ``(x > threshold) != falling``.

    Numbers closer to 0 than float32's smallest normal one count as 0, so that x = 0 gives +1.
    """
    low, high = (torch.full((channels,), end) for end in (-_LARGEST, _LARGEST))
    at_low, at_high = _positive(low, side), _positive(high, side)
    falling = at_low & ~at_high
    below, above = _order(low), _order(high)  # the sign of ``below`` stays that of low, the sign of ``above`` of high
    while bool((above - below > 1).any()):
        middle = (below + above) // 2
        as_low = _positive(_number(middle), side) == at_low
        below, above = torch.where(as_low, middle, below), torch.where(as_low, above, middle)
    found = _number(below)
    found = torch.where((found < 0) & (found > -_SMALLEST), torch.full_like(found, -_SMALLEST), found)
    found = torch.where((found > 0) & (found < _SMALLEST), torch.zeros_like(found), found)
    always, never = at_low & at_high, ~at_low & ~at_high
    return torch.where(always, low, torch.where(never, high, found)), falling


def _positive(x: Tensor, side: InputSide) -> Tensor:
    return input_side(x.view(1, -1, 1, 1), side).flatten() >= 0


def _order(x: Tensor) -> Tensor:
    """float32 -> int64 in the same order: neighbours are neighbours."""
    bits = x.view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _number(order: Tensor) -> Tensor:
    """The inverse of :func:`_order`."""
    bits = torch.where(order < 0, -order - (1 << 31), order)
    return bits.to(torch.int32).view(torch.float32)
