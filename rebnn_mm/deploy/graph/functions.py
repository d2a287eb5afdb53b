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
from rebnn_mm.deploy.prepared import is_recorded

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


class TriedConv2d:
    """``conv2d_exact``, computed in channels-last memory for the shapes where that gives the same bits.

    Channels-last is faster (a 7x7 stem 2.5 times), but oneDNN may then add in another order: some shapes give the same
    bits, some do not, and it depends on the machine and the thread count. So a shape and thread count that comes again
    is computed both ways once. A shape that comes once is computed in contiguous memory only: a detector that sees a
    new size with every image never pays for both. The latest :data:`REMEMBERED` shapes are remembered.
    """

    REMEMBERED = 32

    def __init__(self) -> None:
        self._agrees: dict[tuple[int, ...], bool | None] = {}  # None: seen, not tried

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any) -> Tensor:
        """Convolve."""
        if is_recorded(x):  # a graph cannot try out: it takes the layout that is always right
            return conv2d_exact(x, weight, bias, *geometry)
        key = (*x.shape, torch.get_num_threads())
        known = key in self._agrees
        agrees = self._agrees.get(key)
        if agrees:
            return conv2d_last(x, weight, bias, *geometry)
        y = conv2d_exact(x, weight, bias, *geometry)
        if not known:
            while len(self._agrees) >= self.REMEMBERED:
                self._agrees.pop(next(iter(self._agrees)), None)
            self._agrees[key] = None
        # an input of zeros would agree in any layout, so it decides nothing
        elif agrees is None and 2 * torch.count_nonzero(y) > y.numel():
            self._agrees[key] = torch.equal(y, conv2d_last(x, weight, bias, *geometry))
        return y
