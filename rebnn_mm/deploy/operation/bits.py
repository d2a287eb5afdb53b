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
from rebnn_mm.moved import renamed

__getattr__ = renamed(__name__, {"pack_signs": "to_bits", "unpack_signs": "from_bits"})


def bytes_of_bits(shape: Sequence[int]) -> int:
    """Bytes that a weight of ``shape`` takes: one bit for each element, rounded up once."""
    return (prod(shape) + 7) // 8


def to_bits(weight: Tensor) -> Tensor:
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


def from_bits(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The binary weight of ``shape`` (C_out, C_in/groups, *K) as float32 in {-1, +1}, inverse of :func:`to_bits`.

    Raises:
        TypeError, ValueError: ``bits`` is not the uint8 vector of ``shape``'s size on the CPU.
    """
    check_bits(bits, shape)
    ones = np.unpackbits(bits.numpy(force=True), count=prod(shape), bitorder="little")
    signs = torch.from_numpy(ones.astype(np.float32)).mul_(2).sub_(1)
    return signs.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def check_bits(bits: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError or TypeError unless ``bits`` is a uint8 vector on the CPU that holds a weight of ``shape``."""
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"weight_shape is (C_out, C_in/groups, *K), all at least 1; got {tuple(shape)}")
    expected = bytes_of_bits(shape)
    if bits.dtype != torch.uint8 or tuple(bits.shape) != (expected,):
        raise ValueError(
            f"the bits of a weight {tuple(shape)} are a uint8 tensor of shape ({expected},); "
            f"got {bits.dtype} of shape {tuple(bits.shape)}; see to_bits"
        )
    if not bits.is_cpu or bits.layout != torch.strided:
        raise UserTypeError(
            f"the bits are on {bits.device} ({bits.layout}); packed layers run on the CPU: call .cpu(), or "
            "load its values if it has none"
        )
