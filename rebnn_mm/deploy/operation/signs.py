"""The signs of activations, which 1-bit layers hand each other instead of floats: 32 channels of a pixel in a word.

They are int32 (N, H, W, ceil(C/32)), of a linear layer (..., ceil(C/32)): bit c % 32 of word c // 32 is 1 where channel
c is at least 0, bits behind the last channel are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def words(channels: int) -> int:
    """32-bit words that hold the signs of so many channels."""
    return (channels + 31) // 32


def to_signs(x: Tensor) -> Tensor:
    """Signs of (N, C, H, W): int32 (N, H, W, ceil(C/32)), bit c % 32 of word c // 32 set where ``x >= 0``."""
    n, c, h, w = x.shape
    bits = (x >= 0).permute(0, 2, 3, 1)
    bits = nn.functional.pad(bits, (0, words(c) * 32 - c)).view(n, h, w, words(c), 32)
    values = bits.long() << torch.arange(32, device=bits.device)
    return values.sum(-1).to(torch.int32)  # wraps around: bit 31 is the sign of an int32


def from_signs(signs: Tensor, channels: int) -> Tensor:
    """(N, C, H, W) in {-1, +1}, float32, from its signs."""
    bits = signs.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32, device=signs.device) & 1
    return (bits.flatten(3)[..., :channels] * 2 - 1).permute(0, 3, 1, 2).float()
