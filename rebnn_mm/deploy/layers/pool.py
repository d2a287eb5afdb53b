"""Pooling in one pass over channels-last memory: a max-pool and the norm behind it, and the mean of all pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.prepared import is_recorded
from rebnn_mm.deploy.layers.real_steps import native_library
from rebnn_mm.deploy.operation.checks import check_float, check_vector


def is_faster(x: Tensor) -> bool:
    """Whether :func:`max_pool_norm` runs here and beats torch, which it does with vector instructions only."""
    return not is_recorded(x) and has_vectors()


def has_vectors() -> bool:
    """Whether the kernels have vector instructions here, as torch has."""
    return library.current_isa() not in ("generic", library.PURE_TORCH)


def max_pool_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """``fma(max_pool2d(x, 3, stride=2, padding=1), scale, offset)``, without gradient, in channels-last memory.

    (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2)), with torch's bits. It takes 0.4 of torch's time for the two: one
    pass over the data instead of two, and no positions of the maxima, which torch writes down for a gradient.

    Args:
        x: float32 on the CPU, C, H and W at least 1.
        scale: (C,) float32.
        offset: (C,) float32.

    Raises:
        TypeError, ValueError: A tensor of another type, device or shape.
        RuntimeError: The native library is not there, or :func:`library.current_isa` is torch.
    """
    native, isa = native_library("max_pool_norm")
    n, c, h, w = _checked_shape(x)
    scale, offset = check_vector(scale, "scale", c), check_vector(offset, "offset", c)
    x = x.resolve_neg().contiguous(memory_format=torch.channels_last)
    shape = (n, c, (h + 1) // 2, (w + 1) // 2)
    out = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
    status = native.functions.rebnn_max_pool_run(
        isa.encode(),
        *(x.data_ptr(), x.numel(), n, h, w, c),
        *(scale.data_ptr(), offset.data_ptr()),
        *(out.data_ptr(), out.numel()),
        torch.get_num_threads(),
    )
    library.check_status(status, f"max-pooling an input of {tuple(x.shape)}")
    return out


def pixel_mean(x: Tensor, lanes: int) -> Tensor:
    """``adaptive_avg_pool2d(x, 1)`` from channels-last memory, in the order in which torch adds contiguous pixels.

    (N, C, H, W) -> (N, C, 1, 1). torch would put the pixels in order first.

    Args:
        x: float32 on the CPU, C, H and W at least 1.
        lanes: Floats in torch's vectors: 8 on x86, where its sums take AVX2, 4 on ARM.

    Raises:
        TypeError, ValueError: A tensor of another type, device or shape.
        RuntimeError: The native library is not there, or :func:`library.current_isa` is torch.
    """
    native, isa = native_library("pixel_mean")
    n, c, h, w = _checked_shape(x)
    x = x.resolve_neg().contiguous(memory_format=torch.channels_last)
    out = torch.empty((n, c, 1, 1), dtype=torch.float32, device="cpu")
    status = native.functions.rebnn_mean_run(
        isa.encode(), x.data_ptr(), x.numel(), n, h * w, c, lanes, out.data_ptr(), out.numel()
    )
    library.check_status(status, f"the mean of an input of {tuple(x.shape)}")
    return out


def _checked_shape(x: Tensor) -> tuple[int, int, int, int]:
    check_float(x, "the input")
    if x.dim() != 4 or min(x.shape[1:]) < 1:
        raise ValueError(f"the input is (N, C, H, W), C, H and W at least 1; got {tuple(x.shape)}")
    n, c, h, w = x.shape
    return n, c, h, w
