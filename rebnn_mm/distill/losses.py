"""What a student loses by differing from its teacher, on logits and on hidden states.

The teacher's side is a constant: no gradient reaches it. Everything is computed in at least fp32, as
autocast hands over half-precision outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rebnn_mm.checks import check_number
from rebnn_mm.errors import UserError

_KINDS = ("l2", "cosine")


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross entropy of the student's distribution against the teacher's, averaged over all but the last dimension.

    ``- T^2 * mean_n sum_c softmax(teacher_n / T)_c * log softmax(student_n / T)_c``. At T = 1 it is the distribution
    loss of ReActNet (Liu et al., ECCV 2020, section 4.3), up to the teacher's entropy, which has no gradient.
    The factor T^2 keeps the gradient's size (Hinton et al., arXiv 1503.02531, section 2).

    Args:
        student: Logits, (..., C).
        teacher: Logits of the same shape.
        temperature: T > 0; larger is softer.

    Raises:
        ValueError: Other shapes, or a temperature that is not positive.
    """
    _same_shape("soft_cross_entropy", student, teacher)
    check_number("soft_cross_entropy: temperature", temperature, above=0)
    student, teacher = _at_least_fp32(student), _at_least_fp32(teacher.detach())
    log_student = functional.log_softmax(student / temperature, dim=-1)
    soft_labels = functional.softmax(teacher / temperature, dim=-1)
    return -(soft_labels * log_student).sum(dim=-1).mean() * temperature**2


def check_feature_kind(where: str, kind: object) -> None:
    """Refuse what is no ``kind`` of :func:`feature_loss`.

    Raises:
        UserError: What came, and what is allowed.
    """
    if kind not in _KINDS:
        raise UserError(f"{where}={kind!r} is not one of {_KINDS}")


def feature_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], kind: str = "l2", dim: int = 1, mask: Tensor | None = None
) -> Tensor:
    """Distance of hidden states, averaged over the levels (an FPN's maps, a transformer's layers).

    Args:
        student: One tensor a level, (N, C, H, W) or any shape with channels at ``dim``.
        teacher: Tensors of the same shapes.
        kind: ``'l2'``, the mean squared difference, or ``'cosine'``, ``1 - cos`` of the two channel vectors of each
            place, which ignores their lengths.
        dim: Where the channels are: 1 for images, -1 for sequences (N, L, C).
        mask: 1 where a place counts and 0 where not (padding), in the shape of the tensors without ``dim``.

    Raises:
        ValueError: An unknown kind, other numbers of levels or other shapes.
    """
    check_feature_kind("feature_loss: kind", kind)
    if not student or len(student) != len(teacher):
        raise UserError(f"feature_loss: {len(student)} levels of the student, {len(teacher)} of the teacher")
    levels = []
    for mine, other in zip(student, teacher, strict=True):
        _same_shape("feature_loss", mine, other)
        mine, other = _at_least_fp32(mine), _at_least_fp32(other.detach())
        if kind == "l2":
            distance = (mine - other).square().mean(dim)
        else:
            distance = 1 - functional.cosine_similarity(mine, other, dim=dim)
        levels.append(distance.mean() if mask is None else (distance * mask).sum() / mask.sum().clamp(min=1))
    return torch.stack(levels).mean()


def similarity_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int, mask: Tensor) -> Tensor:
    """Distance of ``P = F F^T / ||F F^T||`` between student and teacher, F being the queries, keys or values of a head.

    The direction-matching distillation of BiBERT (Qin et al., ICLR 2022, section 3.3).

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


def _same_shape(what: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise UserError(
            f"{what}: the student gives {tuple(student.shape)}, the teacher {tuple(teacher.shape)}; both need the same "
            "classes or channels and the same input: take another teacher, or change the student's config"
        )


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _direction(features: Tensor, heads: int, mask: Tensor) -> Tensor:
    """(N, L, heads * d) -> (N, heads, L, L) of norm 1."""
    features = _at_least_fp32(features) * mask.unsqueeze(-1)
    split = features.unflatten(-1, (heads, -1)).transpose(1, 2)
    with torch.autocast(features.device.type, enabled=False):  # a product would be in half precision again
        products = split @ split.transpose(-1, -2)
    return products / products.norm(dim=(-1, -2), keepdim=True).clamp_min(1e-12)
