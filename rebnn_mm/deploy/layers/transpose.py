"""Maps brought from contiguous to channels-last memory and back, large ones several times faster than by torch."""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.pool import has_vectors
from rebnn_mm.deploy.layers.prepared import is_recorded
from rebnn_mm.deploy.layers.real_steps import native_library

NHWC = torch.channels_last
# elements; torch copies fewer in the time that a call takes (Zen 5, one thread)
_LEAST_TO_LAST, _LEAST_TO_FIRST = 3 << 14, 3 << 13


def to_last(x: Tensor) -> Tensor:
    """The same values in channels-last memory."""
    if _is_copied_here(x, _LEAST_TO_LAST) and x.is_contiguous() and not x.is_contiguous(memory_format=NHWC):
        n, c, h, w = x.shape
        return transposed(x.view(n, c, h * w)).view(n, h, w, c).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=NHWC)


def to_first(x: Tensor) -> Tensor:
    """The same values in contiguous memory."""
    if _is_copied_here(x, _LEAST_TO_FIRST) and x.is_contiguous(memory_format=NHWC) and not x.is_contiguous():
        n, c, h, w = x.shape
        return transposed(x.permute(0, 2, 3, 1).view(n, h * w, c)).view(n, c, h, w)
    return x.contiguous()


def _is_copied_here(x: Tensor, least: int) -> bool:
    return (
        not is_recorded(x)
        and x.dim() == 4
        and x.numel() >= least
        and x.dtype == torch.float32
        and x.is_cpu
        and not x.is_neg()
        and has_vectors()
    )


def transposed(x: Tensor) -> Tensor:
    """(N, R, C) -> (N, C, R), in memory of its own, without gradient.

    Args:
        x: Contiguous float32 on the CPU, R and C at least 1.

    Raises:
        ValueError: Another type, memory layout or number of dimensions.
        RuntimeError: The native library is not there, or :func:`library.current_isa` is torch.
    """
    native, isa = native_library("transposed")
    if x.dim() != 3 or x.dtype != torch.float32 or not x.is_cpu or not x.is_contiguous() or x.is_neg():
        raise ValueError(f"matrices are dense float32 on the CPU, (N, R, C); got {x.dtype} of shape {tuple(x.shape)}")
    n, rows, columns = x.shape
    out = torch.empty((n, columns, rows), dtype=torch.float32, device="cpu")
    status = native.functions.rebnn_transpose_run(
        isa.encode(), x.data_ptr(), n, rows, columns, out.data_ptr(), out.numel(), torch.get_num_threads()
    )
    library.check_status(status, f"transposing matrices of {tuple(x.shape)}")
    return out
