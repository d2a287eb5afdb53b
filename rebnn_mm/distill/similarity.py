"""Direction-matching distillation of BiBERT (Qin et al., ICLR 2022, section 3.3): how positions resemble each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rebnn_mm.distill.losses import _at_least_fp32, _same_shape
from rebnn_mm.errors import UserError


def similarity_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int, mask: Tensor) -> Tensor:
    """Distance of ``P = F F^T / ||F F^T||`` between student and teacher, F being the queries, keys or values of a head.

    The matrix of similarities is what attention works with, and its direction, unlike its size, can be met by bits.
    The squared norm of the difference is averaged over rows, heads and layers; the paper sums the norms.

    Args:
        student: One tensor a layer, (N, L, heads * d), real-valued, before any sign.
        teacher: Tensors of the same shapes; no gradient reaches them.
        heads: Attention heads.
        mask: (N, L), 1 for a token and 0 for padding, which does not count.

    Raises:
        ValueError: Other numbers of layers or other shapes.
    """
    if not student or len(student) != len(teacher):
        raise UserError(f"similarity_loss: {len(student)} layers of the student, {len(teacher)} of the teacher")
    layers = []
    for mine, other in zip(student, teacher, strict=True):
        _same_shape("similarity_loss", mine, other)
        difference = _direction(mine, heads, mask) - _direction(other.detach(), heads, mask)
        layers.append(difference.square().sum(dim=(-1, -2)).mean())
    return torch.stack(layers).mean()


def _direction(features: Tensor, heads: int, mask: Tensor) -> Tensor:
    """(N, L, heads * d) -> (N, heads, L, L) of norm 1."""
    features = _at_least_fp32(features) * mask.unsqueeze(-1)
    split = features.unflatten(-1, (heads, -1)).transpose(1, 2)
    products = split @ split.transpose(-1, -2)
    return products / products.norm(dim=(-1, -2), keepdim=True).clamp_min(1e-12)
