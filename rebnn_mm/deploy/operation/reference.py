"""The packed layers in plain torch: slow, obvious, and the same bits as the native kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.operation.signs import from_signs, to_signs
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Affine, Epilogue, InputSide
from rebnn_mm.errors import UserError
from rebnn_mm.functional import sign


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c`` in float32, rounded once, as the instruction of this name does; shapes are broadcast.

    The product of two float32 is exact in float64, the sum is not. Rounding that to odd (if anything was
    lost, the last bit is 1) keeps the second rounding, to float32, from falling on the wrong side of a tie
    (Boldo and Melquiond, IEEE Transactions on Computers 57(4), 2008).
    """
    product, c = torch.broadcast_tensors(a.double() * b.double(), c.double())
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)  # Knuth's two-sum: total + lost is the exact sum
    bits = total.view(torch.int64)
    even = (bits & 1 == 0) & (lost != 0) & total.isfinite()
    away_from_zero = (lost > 0) == (total > 0)
    bits = torch.where(even, torch.where(away_from_zero, bits + 1, bits - 1), bits)
    return bits.view(torch.float64).float()


def fold_batch_norm(norm: nn.modules.batchnorm._NormBase) -> tuple[Tensor, Tensor]:
    """Scale and offset, (C,), such that ``fma(y, scale, offset)`` is ``norm(y)`` in eval mode, bit for bit.

    Takes torch's batch norms. Torch computes ``rsqrt(var + eps) * weight`` and an offset from it, in the rounding of
    its own build: two probes make it say them, 0 for the offset and 1 for the scale.

    Raises:
        ValueError: The norm has no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise UserError(f"{norm} normalises by its input's statistics (track_running_stats=False), not by constants")
    if norm.running_mean.is_meta:
        raise UserError(f"{norm} is on the meta device and has no values: load them first")
    mean, var, weight, bias = (
        None if value is None else value.detach().float().cpu()
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    zero = torch.zeros_like(mean)
    offset = nn.functional.batch_norm(zero[None], mean, var, weight, bias, eps=norm.eps)
    scale = nn.functional.batch_norm(zero[None] + 1, zero, var, weight, None, eps=norm.eps)
    return scale.flatten(), offset.flatten()


def reference_conv2d(
    x: Tensor,
    weight: Tensor,
    spec: ConvSpec,
    before: InputSide,
    after: Epilogue,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(N, C_in, H, W) -> (N, C_out, H', W') and, with ``after.sign``, its signs.

    ``weight`` is (C_out, C_in/groups, K_h, K_w) in {-1, +1}; ``x`` may be signs, see :class:`Epilogue`.
    """
    signs = from_signs(x, spec.c_in) if x.dtype == torch.int32 else sign(input_side(x, before))
    y = nn.functional.conv2d(signs, weight, None, spec.stride, spec.padding, spec.dilation, spec.groups)
    y = finish(y, after, residual)
    return y, None if after.sign is None else to_signs(input_side(y, after.sign))


def finish(y: Tensor, after: Epilogue, residual: Tensor | None) -> Tensor:
    """The real-valued steps behind the integers ``y``, (N, C_out, H', W')."""
    y = y * _channel(after.alpha)
    if after.bias is not None:
        y = y + _channel(after.bias)
    y = _affine(y, after.norm)
    if residual is not None and not after.residual_last:
        y = y + residual
    if after.before is not None:
        y = y + _channel(after.before)
    if after.slope is not None:
        y = torch.where(y > 0, y, y * _channel(after.slope))
    if after.after is not None:
        y = y + _channel(after.after)
    if after.clamp is not None:
        y = y.clamp(*after.clamp)
    y = _affine(y, after.last_norm)
    if residual is not None and after.residual_last:
        y = y + residual
    return y


def _channel(vector: Tensor) -> Tensor:
    return vector.view(-1, 1, 1)


def _affine(y: Tensor, norm: Affine | None) -> Tensor:
    return y if norm is None else fma(y, *map(_channel, norm))


def input_side(x: Tensor, side: InputSide) -> Tensor:
    """What the sign is taken of, for (N, C, H, W)."""
    return _affine(x if side.shift is None else x + _channel(side.shift), side.norm)
