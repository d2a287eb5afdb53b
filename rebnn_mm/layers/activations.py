"""Learnable shifts and slopes of ReActNet (Liu et al., ECCV 2020, section 4.2), which ReBNN builds on."""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn


class ChannelShift(nn.Module):
    """Add one learnable number to each channel: (N, C, H, W) -> (N, C, H, W); starts at 0.

    Before a sign it is RSign's threshold: ``sign(x + shift)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Set the shifts to 0; torch calls it after ``to_empty``."""
        nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        """Shift every channel of ``x``."""
        return x + self.shift.to(x.dtype).view(-1, 1, 1)


@MODELS.register_module()
class RPReLU(nn.Module):
    """Channel shift -> PReLU with one slope a channel (0.25 at the start) -> channel shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = ChannelShift(channels)
        self.prelu = nn.PReLU(channels)
        self.after = ChannelShift(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.after(self.prelu(self.before(x)))
