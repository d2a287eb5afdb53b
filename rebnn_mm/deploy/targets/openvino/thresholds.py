"""The steps in front of a sign as one comparison: what OpenVINO's binarization takes.

``fma(x + shift, scale, offset) >= 0`` holds for each channel on one side of one number, as rounding keeps the order. It
is found by bisection over the float32 numbers with the very steps that the run-time takes, so no sign differs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.deploy.operation.reference import input_side
from rebnn_mm.deploy.operation.steps import InputSide
from rebnn_mm.deploy.operation.thresholds import LARGEST, Turn

_SMALLEST = torch.finfo(torch.float32).tiny  # below it are numbers that a processor may take for 0


def sign_thresholds(side: InputSide, channels: int) -> tuple[Tensor, Tensor]:
    """(thresholds, falling), both (channels,): the sign is +1 where ``(x > threshold) != falling``.

    Numbers closer to 0 than float32's smallest normal one count as 0, so that x = 0 gives +1.
    """
    turn = Turn.of(channels, lambda x: input_side(x.view(1, -1, 1, 1), side).flatten() >= 0)
    falling, found = turn.first & ~turn.last, turn.below
    found = torch.where((found < 0) & (found > -_SMALLEST), torch.full_like(found, -_SMALLEST), found)
    found = torch.where((found > 0) & (found < _SMALLEST), torch.zeros_like(found), found)
    always, never = turn.first & turn.last, ~turn.first & ~turn.last
    return torch.where(always, -LARGEST, torch.where(never, LARGEST, found)), falling
