"""Functions that graphs call besides ATen's operators, each equal to its ATen form bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, embedding, max_pool2d

from rebnn_mm.deploy.layers import pool
from rebnn_mm.deploy.layers.prepared import is_recorded
from rebnn_mm.deploy.layers.transpose import to_first, to_last
from rebnn_mm.deploy.operation.bits import from_bits

_VECTOR = 64  # elements that torch computes at once, at most
_GELU = torch.ops.aten.gelu.default


def full_precision() -> AbstractContextManager[Any]:
    """Within the block, convolve and multiply in float32 also under autocast: a packed network promises its bits."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


@torch.library.custom_op("rebnn_mm::from_bits", mutates_args=(), device_types="cpu")
def weight_of(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """A binary weight as float32 in {-1, +1}, of ``shape``."""
    return from_bits(bits, shape)


@weight_of.register_fake
def _(bits, shape):
    return torch.empty(tuple(shape), dtype=torch.float32, device=bits.device)


def affine(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """``fma(x, scale, offset)`` for each channel, (N, C, ...), in the input's memory format.

    torch has no fma; its batch norm is one in eval mode, and with mean 0, variance 1 and an eps that vanishes beside 1
    its two constants are exactly ``scale`` and ``offset``.
    """
    return batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, offset, eps=1e-30)


def embedding_rows(values: Tensor, scale: Tensor, indices: Tensor) -> Tensor:
    """``embedding(dequantize(values, scale), indices)``, of the rows that are read only."""
    return embedding(indices, values).float() * embedding(indices, scale.unsqueeze(1))


class Pointwise:
    """An operator that computes each element by itself, on channels-last memory, with the bits of contiguous memory.

    torch computes the elements that fill no vector at the end of the memory, and of each thread's share of it, by other
    code, which may round otherwise; and GELU of what it holds to be contiguous by oneDNN.

    Args:
        operator: Of ATen; the image is its first argument.
    """

    def __init__(self, operator: Callable[..., Tensor]) -> None:
        self.__name__ = str(operator).removeprefix("aten.")
        self._operator = operator

    def __call__(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """Compute."""
        if is_recorded(x) or x.dim() != 4:
            return self._operator(x, *arguments, **keywords)
        if self._operator is _GELU and keywords.get("approximate", "none") == "none" and not arguments:
            return self._operator(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if x.numel() % (_VECTOR * torch.get_num_threads()):
            return to_last(self._operator(to_first(x), *arguments, **keywords))
        return self._operator(x, *arguments, **keywords)


def max_pool_affine(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """``affine(max_pool2d(x, 3, stride=2, padding=1), scale, offset)`` in channels-last memory."""
    if pool.is_faster(x):
        return pool.max_pool_norm(x, scale, offset)
    return affine(max_pool2d(to_last(x), 3, stride=2, padding=1), scale, offset)


def conv2d_last(x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any) -> Tensor:
    """``conv2d`` computed and returned in channels-last memory, which is faster and may round in another order."""
    return conv2d(to_last(x), weight, bias, *geometry)


def conv2d_exact(x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any) -> Tensor:
    """``conv2d`` computed in contiguous memory and returned in channels-last memory."""
    return to_last(conv2d(to_first(x), to_first(weight), bias, *geometry))
