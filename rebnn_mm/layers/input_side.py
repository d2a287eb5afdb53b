"""The input's part of a 1-bit layer's backward, by native kernels where they run: its signs, and the slope there."""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm import native
from rebnn_mm.estimators import CLIPPED, POLYNOMIAL, Slope
from rebnn_mm.functional import sign
from rebnn_mm.layers.kept import keep_input, kept_sign, kept_slope


def keep(x: Tensor, slope: Slope, short: bool) -> Tensor:
    """What stays for the backward: ``x``, or ``short`` a byte for each element, see :mod:`rebnn_mm.layers.kept`."""
    if not short:
        return x
    kernels = _kernels(x, slope)
    if kernels is None:
        return keep_input(x, slope)
    kept = torch.empty_like(x, dtype=torch.uint8)
    kernels.unit(native.ENCODE, _rows(x), slope is POLYNOMIAL, values=x, code_out=kept)
    return kept


def signs_of(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """The signs of the input that :func:`keep` kept."""
    short = kept.dtype == torch.uint8
    kernels = _kernels(kept) if dtype == torch.float32 else None
    if kernels is None:
        return kept_sign(kept, dtype) if short else sign(kept).to(dtype)
    out = torch.empty_like(kept, dtype=dtype)
    kernels.unit(native.SIGNS, _rows(kept), out=out, code=kept if short else None, values=None if short else kept)
    return out


def through_sign(grad: Tensor, kept: Tensor, slope: Slope, dtype: torch.dtype) -> Tensor:
    """The gradient of the input in ``dtype``, from that of its signs, which is written over."""
    short = kept.dtype == torch.uint8
    kernels = _kernels(kept, slope) if grad.dtype == dtype == torch.float32 and grad.is_contiguous() else None
    if kernels is None:
        return grad.to(dtype).mul_(kept_slope(kept, slope, dtype) if short else slope.of(kept))
    rows = _rows(kept)
    code, x = (kept, None) if short else (None, kept)
    sums = torch.zeros(rows.shape[1], dtype=torch.float64)  # the gradient of a shift, which there is none of
    kernels.unit(native.INPUT, rows, slope is POLYNOMIAL, values=grad, x=x, code=code, out=grad, sums=sums)
    return grad


def _rows(x: Tensor) -> Tensor:
    """``x`` as (1, N, ...): what a thread takes is one of its N parts."""
    return x[None] if x.dim() > 1 else x[None, None]


def _kernels(x: Tensor, slope: Slope = CLIPPED) -> native.Kernels | None:
    """The native kernels, where they take such a tensor and slope."""
    fits = x.is_cpu and x.dtype in (torch.float32, torch.uint8) and x.is_contiguous()
    return native.kernels() if fits and slope in (CLIPPED, POLYNOMIAL) else None
