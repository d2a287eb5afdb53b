"""The bytes of a binary weight: one bit each, the same on every machine.

Element order is channels last, ``weight.movedim(1, -1).flatten()``: (C_out, *K, C_in/groups), so that
the bits that meet the same pixel lie side by side. Bit ``i`` of this stream is bit ``i % 8`` of byte
``i // 8``, the least significant first; 1 stands for +1, 0 for -1. Nothing is padded but the last
byte, whose unused bits are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from rebnn_mm.errors import UserError, UserTypeError


def packed_bytes(shape: Sequence[int]) -> int:
    """Bytes that a weight of ``shape`` takes: one bit for each element, rounded up once."""
    return (prod(shape) + 7) // 8


def pack_signs(weight: Tensor) -> Tensor:
    """Signs of ``weight``, (C_out, C_in/groups, *K), as (ceil(numel / 8),) uint8; see the module's docstring.

    As :func:`rebnn_mm.functional.sign` has it, 0 and -0.0 count as +1 and NaN as -1.

    Raises:
        ValueError: ``weight`` has fewer than two dimensions, or no values (meta device).
    """
    if weight.dim() < 2:
        raise ValueError(f"a weight is (C_out, C_in/groups, *K), got the shape {tuple(weight.shape)}")
    if weight.is_meta:
        raise UserError("the weight is on the meta device and has no values: load them before packing it")
    bits = (weight.detach() >= 0).movedim(1, -1).flatten().cpu().numpy()
    return torch.from_numpy(np.packbits(bits, bitorder="little"))


def unpack_signs(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The binary weight of ``shape`` (C_out, C_in/groups, *K) as float32 in {-1, +1}, inverse of :func:`pack_signs`.

    Raises:
        TypeError, ValueError: ``packed`` is not the uint8 vector of ``shape``'s size on the CPU.
    """
    check_packed(packed, shape)
    bits = np.unpackbits(packed.numpy(force=True), count=prod(shape), bitorder="little")
    signs = torch.from_numpy(bits.astype(np.float32)).mul_(2).sub_(1)
    return signs.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def check_packed(packed: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError or TypeError unless ``packed`` is a uint8 vector on the CPU that holds a weight of ``shape``."""
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"weight_shape is (C_out, C_in/groups, *K), all at least 1; got {tuple(shape)}")
    expected = packed_bytes(shape)
    if packed.dtype != torch.uint8 or tuple(packed.shape) != (expected,):
        raise ValueError(
            f"packed weight of {tuple(shape)} is a uint8 tensor of shape ({expected},); "
            f"got {packed.dtype} of shape {tuple(packed.shape)}; see pack_signs"
        )
    if not packed.is_cpu or packed.layout != torch.strided:
        raise UserTypeError(
            f"packed weight is on {packed.device} ({packed.layout}); bit-packed layers run on the CPU: call .cpu(), or "
            "load its values if it has none"
        )
