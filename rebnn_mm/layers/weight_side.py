"""The weight's part of a 1-bit layer's backward, by native kernels where they run.

A network has millions of weights, and each operation on them is a pass through memory: composed of torch's, these were
a tenth of a training step of ResNet-18.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rebnn_mm import native
from rebnn_mm.estimators import CLIPPED, Slope
from rebnn_mm.functional import sign


def scaled_signs(latent: Tensor, scale: Tensor | None) -> Tensor:
    """``scale * sign(latent)``: ``w_hat``, as ``latent``.

    Args:
        latent: (C_out, ...).
        scale: (C_out, 1, ...), or None for 1.
    """
    kernels = _kernels(latent, scale)
    if kernels is None:
        return sign(latent) if scale is None else sign(latent).mul_(scale)
    out = torch.empty_like(latent)
    vector = None if scale is None else scale.flatten()
    kernels.unit(native.SIGNS, latent[None], values=latent, scale=vector, out=out)
    return out


def weight_gradients(
    g: Tensor, latent: Tensor, scale: Tensor | None, slope: Slope | None, scaled: bool, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of latent weight and scale from ``g = dL/dw_hat``, which is written over.

    Args:
        g: As ``latent``.
        latent: (C_out, ...).
        scale: (C_out, 1, ...), or None for 1.
        slope: Of the weight's sign; None is 1.
        scaled: See :class:`rebnn_mm.layers.weight_sign.WeightSign`.
        needs: Which of the two are wanted.
    """
    kernels = _kernels(latent, scale, g) if slope is CLIPPED and needs[0] else None
    if kernels is not None:
        of_scale = latent.new_zeros((1, latent.shape[0]), dtype=torch.float64)
        factor = latent.new_ones(latent.shape[0]) if scale is None else scale.flatten()
        factor = factor if scaled or scale is None else (factor > 0).to(factor.dtype)
        kernels.unit(native.WEIGHT, latent[None], values=g, x=latent, scale=factor, out=g, sums=of_scale)
        return g, of_scale.to(scale.dtype).view_as(scale) if needs[1] and scale is not None else None
    dims = tuple(range(1, g.dim()))
    summed = (g * sign(latent)).sum(dims, keepdim=True) if needs[1] and scale is not None else None
    if not needs[0]:
        return None, summed
    if scale is not None:
        g = g.mul_(scale) if scaled else g.masked_fill_(scale <= 0, 0)
    return g if slope is None else g.mul_(slope.of(latent)), summed


def _kernels(*tensors: Tensor | None) -> native.Kernels | None:
    """The native kernels, where they take such tensors."""
    fit = all(t is None or (t.is_cpu and t.dtype == torch.float32 and t.is_contiguous()) for t in tensors)
    return native.kernels() if fit else None
