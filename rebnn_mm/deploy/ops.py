"""Bit-packed layers as ``torch.library`` operators, which ``torch.export`` and ``torch.compile`` see.

Operators get everything as arguments. They keep the last plan of each packed weight while the tensors that it was made
of are alive and unchanged, so a compiled or exported network does not prepare its weights in each call. A module that
runs in eager mode holds a :class:`Conv2dPlan` or :class:`LinearPlan` itself, which gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layer import Geometry, Pair, RPReLUParameters, pair
from rebnn_mm.deploy.plan import Conv2dPlan, LinearPlan, memory_format_of
from rebnn_mm.deploy.prepared import PlanCache
from rebnn_mm.deploy.reference import fold_batch_norm

_plans = PlanCache()

__all__ = ["Conv2dPlan", "LinearPlan", "binary_conv2d", "binary_linear", "fold_batch_norm"]


@torch.library.custom_op("rebnn_mm::binary_conv2d", mutates_args=(), device_types="cpu")
def _conv2d_op(
    x: Tensor,
    packed: Tensor,
    alpha: Tensor,
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    shift: Tensor | None = None,
    input_scale: Tensor | None = None,
    input_offset: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    residual: Tensor | None = None,
    before: Tensor | None = None,
    slope: Tensor | None = None,
    after: Tensor | None = None,
) -> Tensor:
    geometry: dict[str, Any] = dict(
        weight_shape=weight_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    vectors = (shift, input_scale, input_offset, bias, scale, offset, before, slope, after)
    return _plan(Conv2dPlan, packed, alpha, vectors, geometry)(x, residual)


@_conv2d_op.register_fake
def _conv2d_fake(x, packed, alpha, weight_shape, stride, padding, dilation, groups, *parameters):
    geometry = Geometry.of(weight_shape, stride, padding, dilation, groups)
    size = geometry.output_size(x.shape[2], x.shape[3])
    return torch.empty(
        (x.shape[0], geometry.c_out, *size), dtype=x.dtype, device=x.device, memory_format=memory_format_of(x)
    )


@torch.library.custom_op("rebnn_mm::binary_linear", mutates_args=(), device_types="cpu")
def _linear_op(
    x: Tensor,
    packed: Tensor,
    alpha: Tensor,
    weight_shape: Sequence[int],
    shift: Tensor | None = None,
    input_scale: Tensor | None = None,
    input_offset: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    residual: Tensor | None = None,
    before: Tensor | None = None,
    slope: Tensor | None = None,
    after: Tensor | None = None,
) -> Tensor:
    vectors = (shift, input_scale, input_offset, bias, scale, offset, before, slope, after)
    return _plan(LinearPlan, packed, alpha, vectors, dict(weight_shape=weight_shape))(x, residual)


@_linear_op.register_fake
def _linear_fake(x, packed, alpha, weight_shape, *parameters):
    return torch.empty((*x.shape[:-1], weight_shape[0]), dtype=x.dtype, device=x.device)


def _plan(
    kind: type[Conv2dPlan] | type[LinearPlan],
    packed: Tensor,
    alpha: Tensor,
    vectors: Sequence[Tensor | None],
    geometry: dict[str, Any],
) -> Any:
    """The plan of these arguments, from the cache if it is there."""
    shift, input_scale, input_offset, bias, scale, offset, before, slope, after = vectors

    def make() -> Conv2dPlan | LinearPlan:
        own: dict[str, Any] = dict(shift=shift, bias=bias, scale=scale, offset=offset)
        own |= dict(input_norm=_together(input_scale, input_offset), rprelu=_together(before, slope, after))
        return kind(packed, alpha, **geometry, **own)

    sizes = (tuple(value) if isinstance(value, Sequence) else value for value in geometry.values())
    return _plans.get(make, (packed, alpha, *vectors), (kind, library.current_isa(), *sizes))


def _together(*parts: Tensor | None) -> tuple | None:
    """The parts as one parameter, None if there are none."""
    if all(part is None for part in parts):
        return None
    if any(part is None for part in parts):
        raise ValueError(f"{len(parts)} tensors belong together (input_norm or rprelu); some of them are None")
    return parts


def binary_conv2d(
    x: Tensor,
    packed: Tensor,
    alpha: Tensor,
    *,
    weight_shape: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    shift: Tensor | None = None,
    input_norm: tuple[Tensor, Tensor] | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    residual: Tensor | None = None,
    rprelu: RPReLUParameters | None = None,
) -> Tensor:
    """``torch.ops.rebnn_mm.binary_conv2d``: the :class:`Conv2dPlan` of these arguments, called."""
    return _conv2d_op(
        x,
        packed,
        alpha,
        list(weight_shape),
        list(pair(stride, "stride", 1)),
        list(pair(padding, "padding", 0)),
        list(pair(dilation, "dilation", 1)),
        groups,
        shift,
        *(input_norm or (None, None)),
        bias,
        scale,
        offset,
        residual,
        *(rprelu or (None, None, None)),
    )


def binary_linear(
    x: Tensor,
    packed: Tensor,
    alpha: Tensor,
    *,
    weight_shape: Sequence[int],
    shift: Tensor | None = None,
    input_norm: tuple[Tensor, Tensor] | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    residual: Tensor | None = None,
    rprelu: RPReLUParameters | None = None,
) -> Tensor:
    """``torch.ops.rebnn_mm.binary_linear``: the :class:`LinearPlan` of these arguments, called."""
    return _linear_op(
        x,
        packed,
        alpha,
        list(weight_shape),
        shift,
        *(input_norm or (None, None)),
        bias,
        scale,
        offset,
        residual,
        *(rprelu or (None, None, None)),
    )
