"""What a graph may call besides ATen: a few functions of tensors, each equal to its ATen form bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, max_pool2d

from rebnn_mm.deploy import pool
from rebnn_mm.deploy.packing import unpack_signs

NHWC = torch.channels_last


def full_precision() -> AbstractContextManager[Any]:
    """Within the block, convolve and multiply in float32 also under autocast: a packed network promises its bits."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


@torch.library.custom_op("rebnn_mm::unpack_signs", mutates_args=(), device_types="cpu")
def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """A packed weight as float32 in {-1, +1}, of ``shape``."""
    return unpack_signs(packed, shape)


@unpack.register_fake
def _(packed, shape):
    return torch.empty(tuple(shape), dtype=torch.float32, device=packed.device)


def affine(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """``fma(x, scale, offset)`` for each channel, (N, C, ...), in the input's memory format.

    torch has no fma; its batch norm is one in eval mode, and with mean 0, variance 1 and an eps that vanishes beside 1
    its two constants are exactly ``scale`` and ``offset``.
    """
    return batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, offset, eps=1e-30)


def to_last(x: Tensor) -> Tensor:
    """The same values in channels-last memory."""
    return x.contiguous(memory_format=NHWC)


def to_first(x: Tensor) -> Tensor:
    """The same values in contiguous memory."""
    return x.contiguous()


def max_pool_affine(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """``affine(max_pool2d(x, 3, stride=2, padding=1), scale, offset)`` in channels-last memory."""
    if pool.pays(x):
        return pool.max_pool_norm(x, scale, offset)
    return affine(max_pool2d(to_last(x), 3, stride=2, padding=1), scale, offset)


def conv2d_last(x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any) -> Tensor:
    """``conv2d`` computed and returned in channels-last memory, which is faster and may round in another order."""
    return conv2d(to_last(x), weight, bias, *geometry)


def conv2d_exact(x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any) -> Tensor:
    """``conv2d`` computed in contiguous memory and returned in channels-last memory."""
    return to_last(conv2d(to_first(x), to_first(weight), bias, *geometry))
