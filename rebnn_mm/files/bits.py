"""Eight booleans a byte, on any device: what remembering the sign of every weight costs least in.

Bit ``i`` of the flattened tensor is bit ``i % 8`` of byte ``i // 8``; unused bits of the last byte are 0. The order is
that of a little-endian machine: ``deploy/operation/bits.py`` has the order of the files that are exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# A product with 2^7 + 2^14 + ... + 2^56 moves the lowest bits of eight bytes side by side into the top byte:
# byte i meets 2^(56 - 7 i) at bit 56 + i, and no two of the 64 products share a place, so nothing carries.
_GATHER = sum(1 << 7 * i for i in range(1, 9))


def to_bits(booleans: Tensor) -> Tensor:
    """Bool tensor of any shape and layout -> (ceil(numel / 8),) uint8, on the same device.

    Raises:
        TypeError: ``booleans`` is not of type bool.
    """
    if booleans.dtype != torch.bool:
        raise TypeError(f"to_bits takes bool, not {booleans.dtype}")
    flat = booleans.reshape(-1)
    if flat.numel() % 8:
        flat = nn.functional.pad(flat, (0, -flat.numel() % 8))
    elif flat.stride(0) != 1 or flat.storage_offset() % 8:  # eight bytes are read as one number
        flat = flat.clone(memory_format=torch.contiguous_format)
    return ((flat.view(torch.int64) * _GATHER >> 56) & 255).to(torch.uint8)


def from_bits(bits: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`to_bits` for a tensor with the shape and device of ``like``."""
    each = bits.to(like.device)[:, None] >> torch.arange(8, dtype=torch.uint8, device=like.device)
    return (each & 1).bool().flatten()[: like.numel()].view(like.shape)


def count(bits: Tensor) -> Tensor:
    """Number of ones, a scalar int64 tensor."""
    pairs = bits - ((bits >> 1) & 0x55)
    nibbles = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return ((nibbles + (nibbles >> 4)) & 0x0F).sum()
