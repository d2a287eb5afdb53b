"""What training asks of the native kernels, which belong to a part that it may not import.

:mod:`rebnn_mm` names who brings them, :mod:`rebnn_mm.layers` asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # rebnn_mm.busy_machine sets what torch reads when it is imported
    from torch import Tensor

Geometry = tuple[Any, Any, Any, int]
"""Stride, padding (both pairs), dilation and groups of a convolution."""


class Kernels(Protocol):
    """Bit-packed products on the CPU, in float32; nothing has a gradient."""

    def convolve(
        self,
        x: Tensor,
        latent: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        how: Geometry,
        shift: Tensor | None = None,
    ) -> Tensor:
        """``conv2d(sign(x + shift), sign(latent)) * scale + bias`` of (N, C_in, H, W), in ``x``'s memory format."""

    def multiply(self, x: Tensor, latent: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        """``linear(sign(x), sign(latent)) * scale + bias`` of (..., C_in)."""

    def unit(self, step: int, like: Tensor, polynomial: bool = False, **tensors: Tensor | None) -> None:
        """An elementwise step of a unit that trains.

        Args:
            step: One of ``rebnn_unit_step`` in ``rebnn_kernels.h``, which says what it reads and writes.
            like: (N, C, H, W), whose shape all maps have; of weights (1, C, ...).
            polynomial: Whether the estimator is the polynomial one; otherwise it is the clipped one.
            tensors: By the names of ``rebnn_unit_call``: maps, dense; vectors of C; sums in float64.
        """


# enum rebnn_unit_step
COUNTS, FORWARD, BACKWARD, NORM, SIGNS, ENCODE, INPUT, WEIGHT = range(8)

_loaders: list[Callable[[], Kernels | None]] = []


def set_kernels(loader: Callable[[], Kernels | None]) -> None:
    """Let ``loader`` bring the kernels, or None where they cannot run; it replaces the one before."""
    _loaders[:] = [loader]


def kernels() -> Kernels | None:
    """The kernels, or None where there are none."""
    return _loaders[0]() if _loaders else None
