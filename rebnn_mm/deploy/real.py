"""The real-valued parts of a packed network: as fast as the trained layers' bits allow."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d

from rebnn_mm.deploy import pool
from rebnn_mm.deploy.plan import memory_format_of
from rebnn_mm.deploy.prepared import is_recorded

NHWC = torch.channels_last


_MOST_SHAPES = 64


def full_precision() -> AbstractContextManager[Any]:
    """Within the block, convolve and multiply in float32 also under autocast: a packed network promises its bits."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


class RealConv2d(nn.Module):
    """Convolution without bias, (N, C_in, H, W) -> (N, C_out, H', W') in channels-last memory.

    A trained network computes in contiguous (NCHW) memory. Channels-last is faster (a 7x7 stem 2.5
    times), but oneDNN may then add in another order: some shapes give the same bits, some do not,
    and it depends on the machine and the thread count. So with ``exact`` a shape (and thread count) that comes again is
    computed both ways once, and channels-last is used from then on if they agree. A shape that comes once is computed
    in contiguous memory only: a detector that sees a new size with every image never pays for both.

    Args:
        weight: (C_out, C_in, K, K).
        stride: Both ways.
        padding: Both ways, with zeros.
        exact: Give the bits of the contiguous layout; False always takes channels-last.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, stride: int = 1, padding: int = 0, exact: bool = True) -> None:
        super().__init__()
        self.stride, self.padding, self.exact = stride, padding, exact
        self.register_buffer("weight", weight.contiguous(memory_format=NHWC))
        self._agrees: dict[tuple[int, ...], bool | None] = {}  # None: seen once, not tried yet

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if not self.exact:
            return self._last(x)
        if is_recorded(x):  # a graph cannot try out: it takes the layout that is always right
            return self._first(x)
        key = (*x.shape, torch.get_num_threads())
        agrees = self._agrees.get(key)
        if agrees:
            return self._last(x)
        y = self._first(x)
        if key not in self._agrees:
            if len(self._agrees) >= _MOST_SHAPES:
                self._agrees = {}  # another dict: threads that read the old one are not disturbed
            self._agrees[key] = None
        elif agrees is None and 2 * torch.count_nonzero(y) > y.numel():
            # an input of zeros would agree in any layout, so it decides nothing
            self._agrees[key] = torch.equal(y, self._last(x))
        return y

    def __getstate__(self) -> dict[str, Any]:
        """Without what was tried out: another machine adds in another order."""
        return {**self.__dict__, "_agrees": {}}

    def _first(self, x: Tensor) -> Tensor:
        """Computed in contiguous memory, channels first."""
        return self._conv(x.contiguous(), self.weight.contiguous()).contiguous(memory_format=NHWC)

    def _last(self, x: Tensor) -> Tensor:
        """Computed channels last."""
        return self._conv(x.contiguous(memory_format=NHWC), self.weight.contiguous(memory_format=NHWC))

    def _conv(self, x: Tensor, weight: Tensor) -> Tensor:
        with full_precision():
            return conv2d(x, weight, None, self.stride, self.padding)


class FoldedNorm(nn.Module):
    """``fma(x, scale, offset)`` for each channel: (N, C, H, W) -> (N, C, H, W), in the input's memory format.

    torch has no fma; its batch norm is one in eval mode, and with mean 0, variance 1 and an eps that
    vanishes beside 1 its two constants are exactly ``scale`` and ``offset``.
    """

    scale: Tensor
    offset: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)
        self.register_buffer("mean", torch.zeros_like(scale))
        self.register_buffer("var", torch.ones_like(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift."""
        if not is_recorded(x) and x.dim() == 4:  # on memory with gaps torch rounds twice
            x = x.contiguous(memory_format=memory_format_of(x))
        return batch_norm(x, self.mean, self.var, self.scale, self.offset, eps=1e-30)


class PooledStem(nn.Module):
    """7x7 convolution -> batch norm -> max-pool, as max-pool -> batch norm on a quarter of the pixels.

    Exact: the norm is ``fma(x, scale, offset)`` and rounding keeps order, so it changes places with a maximum
    where scale >= 0. Where it is < 0 the signs of kernel and scale are turned, which changes no bit.

    Args:
        weight: (C, C_in, 7, 7).
        scale: (C,), of the folded norm.
        offset: (C,).
        exact: As for :class:`RealConv2d`.
    """

    def __init__(self, weight: Tensor, scale: Tensor, offset: Tensor, exact: bool = True) -> None:
        super().__init__()
        turn = torch.where(scale < 0, -1.0, 1.0)
        self.conv = RealConv2d(weight * turn.view(-1, 1, 1, 1), stride=2, padding=3, exact=exact)
        self.norm = FoldedNorm(scale.abs(), offset)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C, ceil(ceil(H/2)/2), ceil(ceil(W/2)/2))."""
        y = self.conv(x)
        if pool.pays(y):
            return pool.max_pool_norm(y, self.norm.scale, self.norm.offset)
        return self.norm(max_pool2d(y, 3, stride=2, padding=1))
