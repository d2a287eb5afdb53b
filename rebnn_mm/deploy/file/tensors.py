"""The kinds of tensors that a file holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rebnn_mm.deploy.operation.int8 import QuantizedTensor

# Types that a file does not hold -> the narrowest of its types that holds their values
_WIDER = {
    torch.bool: torch.uint8,
    **dict.fromkeys((torch.int8, torch.int16, torch.int32), torch.int64),
    torch.bfloat16: torch.float32,
}


@dataclass(frozen=True)
class BinaryTensor:
    """A binary weight: ``bits`` as :func:`rebnn_mm.deploy.operation.bits.to_bits` gives them, and its ``shape``."""

    bits: Tensor
    shape: tuple[int, ...]


Stored = Tensor | BinaryTensor | QuantizedTensor


def stored_type(dtype: torch.dtype) -> torch.dtype:
    """The type in which a file holds tensors of ``dtype``: itself, or a wider one."""
    return _WIDER.get(dtype, dtype)


def parts_of(tensor: Stored) -> tuple[Tensor, ...]:
    """The plain tensors that a stored one consists of, in the order of their bytes."""
    if isinstance(tensor, QuantizedTensor):
        return tensor.scale, tensor.values
    return (tensor.bits,) if isinstance(tensor, BinaryTensor) else (tensor,)
