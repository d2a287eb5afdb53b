"""Bit-packed layers as ``torch.library`` operators, which ``torch.export`` and ``torch.compile`` see.

Operators get everything as arguments. They keep the plans of the tensors that they saw last while these are alive and
unchanged, so a compiled or exported network does not prepare its weights in each call. A module that runs in eager mode
holds a :class:`Conv2dPlan` or :class:`LinearPlan` itself, which gives the same bits. Linear layers have operators of
their own only because their input is (..., C_in).

An operator's ``geometry`` is :meth:`ConvSpec.ints`; ``tensors`` and ``names`` are those of
:func:`rebnn_mm.deploy.layer.tensors_of`, names with a space between them (a list with None in it, which would say the
same, is more than ``torch.jit.trace`` can write down).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layer import ConvSpec, Epilogue, InputSide, sides_of, tensors_of, words
from rebnn_mm.deploy.plan import Conv2dPlan, LinearPlan, Result, output_format
from rebnn_mm.deploy.prepared import PlanCache
from rebnn_mm.deploy.reference import fold_batch_norm

__all__ = ["Conv2dPlan", "LinearPlan", "binary_conv2d", "binary_linear", "fold_batch_norm"]

_plans = PlanCache()


def _plan(
    kind: type[Conv2dPlan] | type[LinearPlan],
    packed: Tensor,
    geometry: Sequence[int],
    tensors: Sequence[Tensor],
    names: str,
    clamp: Sequence[float] | None,
    *flags: bool,
) -> Any:
    """The plan of an operator's arguments, from the cache if it is there; flags: residual_last, signs, floats."""

    def make() -> Conv2dPlan | LinearPlan:
        if len(names.split()) != len(tensors):
            raise ValueError(f"{len(tensors)} tensors, but the names {names!r}")
        by_name = dict(zip(names.split(), tensors, strict=True))
        return kind(packed, ConvSpec.from_ints(geometry), *sides_of(by_name, clamp, *flags))

    options = (kind, library.current_isa(), tuple(geometry), names, None if clamp is None else tuple(clamp), flags)
    return _plans.get(make, (packed, *tensors), options)


@torch.library.custom_op("rebnn_mm::binary_conv2d", mutates_args=(), device_types="cpu")
def _conv2d(
    x: Tensor,
    packed: Tensor,
    geometry: Sequence[int],
    tensors: Sequence[Tensor],
    names: str,
    residual: Tensor | None = None,
    clamp: Sequence[float] | None = None,
    residual_last: bool = False,
    signs: bool = False,
) -> Tensor:
    plan = _plan(Conv2dPlan, packed, geometry, tensors, names, clamp, residual_last, signs, not signs)
    return plan(x, residual)


@torch.library.custom_op("rebnn_mm::binary_conv2d_both", mutates_args=(), device_types="cpu")
def _conv2d_both(
    x: Tensor,
    packed: Tensor,
    geometry: Sequence[int],
    tensors: Sequence[Tensor],
    names: str,
    residual: Tensor | None = None,
    clamp: Sequence[float] | None = None,
    residual_last: bool = False,
) -> tuple[Tensor, Tensor]:
    return _plan(Conv2dPlan, packed, geometry, tensors, names, clamp, residual_last, True, True)(x, residual)


@torch.library.custom_op("rebnn_mm::binary_linear", mutates_args=(), device_types="cpu")
def _linear(
    x: Tensor,
    packed: Tensor,
    geometry: Sequence[int],
    tensors: Sequence[Tensor],
    names: str,
    residual: Tensor | None = None,
    clamp: Sequence[float] | None = None,
    residual_last: bool = False,
    signs: bool = False,
) -> Tensor:
    plan = _plan(LinearPlan, packed, geometry, tensors, names, clamp, residual_last, signs, not signs)
    return plan(x, residual)


@torch.library.custom_op("rebnn_mm::binary_linear_both", mutates_args=(), device_types="cpu")
def _linear_both(
    x: Tensor,
    packed: Tensor,
    geometry: Sequence[int],
    tensors: Sequence[Tensor],
    names: str,
    residual: Tensor | None = None,
    clamp: Sequence[float] | None = None,
    residual_last: bool = False,
) -> tuple[Tensor, Tensor]:
    return _plan(LinearPlan, packed, geometry, tensors, names, clamp, residual_last, True, True)(x, residual)


def _conv2d_results(x: Tensor, geometry: Sequence[int], signs: bool) -> tuple[Tensor, Tensor]:
    spec = ConvSpec.from_ints(geometry)
    n, h, w = (x.shape[0], *x.shape[1:3]) if x.dtype == torch.int32 else (x.shape[0], *x.shape[2:])
    size = spec.output_size(h, w)
    memory_format = output_format(x, signs)
    floats = x.new_empty((n, spec.c_out, *size), dtype=torch.float32).contiguous(memory_format=memory_format)
    return floats, x.new_empty((n, *size, words(spec.c_out)), dtype=torch.int32)


def _linear_results(x: Tensor, geometry: Sequence[int], signs: bool) -> tuple[Tensor, Tensor]:
    leading, c_out = x.shape[:-1], geometry[0]
    return x.new_empty((*leading, c_out), dtype=torch.float32), x.new_empty((*leading, words(c_out)), dtype=torch.int32)


def _register_fakes(one: Any, both: Any, results: Any) -> None:
    def fake(x, packed, geometry, tensors, names, residual=None, clamp=None, residual_last=False, signs=False):
        return results(x, geometry, signs)[signs]

    def fake_both(x, packed, geometry, tensors, names, residual=None, clamp=None, residual_last=False):
        return results(x, geometry, True)

    one.register_fake(fake)
    both.register_fake(fake_both)


_register_fakes(_conv2d, _conv2d_both, _conv2d_results)
_register_fakes(_linear, _linear_both, _linear_results)


def binary_conv2d(
    x: Tensor,
    packed: Tensor,
    spec: ConvSpec,
    before: InputSide,
    after: Epilogue,
    residual: Tensor | None = None,
) -> Result:
    """``torch.ops.rebnn_mm.binary_conv2d``, or ``..._both``: arguments and result of a :class:`Conv2dPlan`."""
    return _call(_conv2d, _conv2d_both, x, packed, spec, before, after, residual)


def binary_linear(
    x: Tensor,
    packed: Tensor,
    spec: ConvSpec,
    before: InputSide,
    after: Epilogue,
    residual: Tensor | None = None,
) -> Result:
    """``torch.ops.rebnn_mm.binary_linear``, or ``..._both``: arguments and result of a :class:`LinearPlan`."""
    return _call(_linear, _linear_both, x, packed, spec, before, after, residual)


def _call(one, both, x, packed, spec, before, after, residual):
    clamp = None if after.clamp is None else list(after.clamp)
    tensors = tensors_of(before, after)
    names = " ".join(tensors)
    arguments = (x, packed, spec.ints(), list(tensors.values()), names, residual, clamp, after.residual_last)
    if after.sign is not None and after.floats:
        return both(*arguments)
    return one(*arguments, after.sign is not None)
