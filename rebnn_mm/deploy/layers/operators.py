"""Packed layers as ``torch.library`` operators, which ``torch.export`` and ``torch.compile`` see.

Operators get everything as arguments. They keep the plans of the tensors that they saw last while these are alive and
unchanged, so a compiled or exported network does not prepare its weights in each call. A module that runs in eager mode
holds a :class:`Conv2dPlan` or :class:`LinearPlan` itself, which gives the same bits. Linear layers have operators of
their own only because their input is (..., C_in).

An operator's ``geometry`` is :meth:`ConvSpec.ints`; ``tensors`` and ``names`` are those of
:func:`rebnn_mm.deploy.operation.steps.tensors_of`, names with a space between them (a list with None in it, which would
say the same, is more than ``torch.jit.trace`` can write down).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.plan import Conv2dPlan, LinearPlan, Result, output_format
from rebnn_mm.deploy.layers.prepared import PlanCache
from rebnn_mm.deploy.operation.reference import fold_batch_norm
from rebnn_mm.deploy.operation.signs import words
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide, sides_of, tensors_of

__all__ = ["Conv2dPlan", "LinearPlan", "binary_conv2d", "binary_linear", "fold_batch_norm"]

_plans = PlanCache()


# of all four operators; those with one result have ``signs`` behind them
_SCHEMA = (
    "Tensor x, Tensor bits, SymInt[] geometry, Tensor[] tensors, str names, Tensor? residual=None, "
    "float[]? clamp=None, bool residual_last=False"
)


class _Call(NamedTuple):
    """Arguments of an operator, as ``_SCHEMA`` has them; torch leaves out those behind that are the defaults."""

    x: Tensor
    bits: Tensor
    geometry: Sequence[int]
    tensors: Sequence[Tensor]
    names: str
    residual: Tensor | None = None
    clamp: Sequence[float] | None = None
    residual_last: bool = False
    signs: bool = False

    def run(self, kind: type[Conv2dPlan] | type[LinearPlan], signs: bool, floats: bool) -> Any:
        """The result of the plan of these arguments, which is in the cache if they were seen before."""
        options = (None if self.clamp is None else tuple(self.clamp), self.residual_last, signs, floats)

        def make() -> Conv2dPlan | LinearPlan:
            names = self.names.split()
            if len(names) != len(self.tensors):
                raise ValueError(f"{len(self.tensors)} tensors, but the names {self.names!r}")
            sides = sides_of(dict(zip(names, self.tensors, strict=True)), *options)
            return kind(self.bits, ConvSpec.from_ints(self.geometry), *sides)

        key = (kind, library.current_isa(), tuple(self.geometry), self.names, options)
        return _plans.get(make, (self.bits, *self.tensors), key)(self.x, self.residual)


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


def _define(name: str, kind: type[Conv2dPlan] | type[LinearPlan], results: Callable[..., tuple[Tensor, Tensor]]) -> Any:
    """``rebnn_mm::NAME``, whose result is floats or signs, and ``rebnn_mm::NAME_both``.

    Args:
        name: Of the operator.
        kind: The plan that runs it.
        results: (x, geometry, with signs) -> empty floats and signs, for torch's tracing.
    """
    own: dict[str, Any] = dict(mutates_args=(), device_types="cpu")

    @torch.library.custom_op(f"rebnn_mm::{name}", **own, schema=f"({_SCHEMA}, bool signs=False) -> Tensor")
    def one(*arguments: Any) -> Tensor:
        call = _Call(*arguments)
        return call.run(kind, call.signs, not call.signs)

    @torch.library.custom_op(f"rebnn_mm::{name}_both", **own, schema=f"({_SCHEMA}) -> (Tensor, Tensor)")
    def both(*arguments: Any) -> tuple[Tensor, Tensor]:
        return _Call(*arguments).run(kind, True, True)

    @one.register_fake
    def _(*arguments: Any) -> Tensor:
        call = _Call(*arguments)
        return results(call.x, call.geometry, call.signs)[call.signs]

    @both.register_fake
    def _(*arguments: Any) -> tuple[Tensor, Tensor]:
        call = _Call(*arguments)
        return results(call.x, call.geometry, True)

    return one, both


_CONV2D = _define("binary_conv2d", Conv2dPlan, _conv2d_results)
_LINEAR = _define("binary_linear", LinearPlan, _linear_results)


def binary_conv2d(
    x: Tensor, bits: Tensor, spec: ConvSpec, before: InputSide, after: Epilogue, residual: Tensor | None = None
) -> Result:
    """``torch.ops.rebnn_mm.binary_conv2d``, or ``..._both``: arguments and result of a :class:`Conv2dPlan`."""
    return _call(_CONV2D, x, bits, spec, before, after, residual)


def binary_linear(
    x: Tensor, bits: Tensor, spec: ConvSpec, before: InputSide, after: Epilogue, residual: Tensor | None = None
) -> Result:
    """``torch.ops.rebnn_mm.binary_linear``, or ``..._both``: arguments and result of a :class:`LinearPlan`."""
    return _call(_LINEAR, x, bits, spec, before, after, residual)


def _call(operators: Any, x: Tensor, bits: Tensor, spec: ConvSpec, before: Any, after: Any, residual: Any) -> Result:
    one, both = operators
    clamp = None if after.clamp is None else list(after.clamp)
    tensors = tensors_of(before, after)
    names = " ".join(tensors)
    arguments = (x, bits, spec.ints(), list(tensors.values()), names, residual, clamp, after.residual_last)
    if after.sign is not None and after.floats:
        return both(*arguments)
    return one(*arguments, after.sign is not None)
