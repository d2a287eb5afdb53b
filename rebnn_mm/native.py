"""What training asks of the native kernels, which belong to a part that it may not import.

:mod:`rebnn_mm` names who brings them, :mod:`rebnn_mm.layers` asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

Geometry = tuple[Any, Any, Any, int]
"""Stride, padding (both pairs), dilation and groups of a convolution."""


class Kernels(Protocol):
    """Bit-packed products on the CPU, in float32; nothing has a gradient."""

    def convolve(self, x: Tensor, latent: Tensor, scale: Tensor | None, bias: Tensor | None, how: Geometry) -> Tensor:
        """``conv2d(sign(x), sign(latent)) * scale + bias`` of (N, C_in, H, W), in the memory format of ``x``."""

    def multiply(self, x: Tensor, latent: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        """``linear(sign(x), sign(latent)) * scale + bias`` of (..., C_in)."""


_loaders: list[Callable[[], Kernels | None]] = []


def set_kernels(loader: Callable[[], Kernels | None]) -> None:
    """Let ``loader`` bring the kernels, or None where they cannot run; it replaces the one before."""
    _loaders[:] = [loader]


def kernels() -> Kernels | None:
    """The kernels, or None where there are none."""
    return _loaders[0]() if _loaders else None
