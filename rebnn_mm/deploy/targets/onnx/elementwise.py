"""Operators that compute each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.targets.onnx.builder import Builder, Value, axis
from rebnn_mm.deploy.targets.onnx.units import clip
from rebnn_mm.errors import UserError

_INF = float("inf")
_UNARY = dict(
    **dict(abs="Abs", acos="Acos", atan="Atan", ceil="Ceil", cos="Cos", erf="Erf", exp="Exp", floor="Floor"),
    **dict(hardswish="HardSwish", log="Log", mish="Mish", neg="Neg", reciprocal="Reciprocal", relu="Relu"),
    **dict(selu="Selu", sigmoid="Sigmoid", sign="Sign", sin="Sin", sqrt="Sqrt", tanh="Tanh"),
)
_SOFTPLUS_LINE = 15  # log(1 + exp(15)) is 15 up to the last digits of float32
_ANY_NUMBER = ("abs", "neg", "relu", "sign")
_COMPARISONS = dict(eq="Equal", lt="Less", gt="Greater", le="LessOrEqual", ge="GreaterOrEqual")


def floating(g: Builder, x: Value | Tensor) -> Value:
    """``x`` as float32, if it is none."""
    x = g.value(x)
    return x if x.dtype.is_floating_point else g.cast(x, torch.float32)


def together(g: Builder, a: Any, b: Any) -> list[Value]:
    """Both operands as values of the type that torch computes them in."""
    dtype = torch.result_type(_dummy(a), _dummy(b))
    return [_as(g, operand, dtype) for operand in (a, b)]


def _dummy(operand: Any) -> Any:
    if isinstance(operand, Value):
        if operand.is_size:
            return 1.0 if operand.dtype.is_floating_point else 1
        return torch.empty((1,) * (1 if operand.rank is None else operand.rank), dtype=operand.dtype)
    return torch.empty((1,) * operand.dim(), dtype=operand.dtype) if isinstance(operand, Tensor) else operand


def _as(g: Builder, operand: Any, dtype: torch.dtype) -> Value:
    if isinstance(operand, (Value, Tensor)):
        return g.cast(operand, dtype)
    return g.scalar(operand, dtype)


def rank_of(*operands: Value) -> int | None:
    """Number of dimensions of what is computed from several, broadcast."""
    ranks = [operand.rank for operand in operands]
    return None if None in ranks else max(ranks)  # type: ignore[type-var]


def binary(g: Builder, kind: str, a: Any, b: Any, dtype: torch.dtype | None = None) -> Value:
    """A node of two broadcast operands."""
    a, b = together(g, a, b)
    return g.op(kind, a, b, dtype=dtype, rank=rank_of(a, b))


def _unary(name: str, kind: str) -> Callable[..., Value]:
    return lambda g, x: g.op(kind, x if name in _ANY_NUMBER else floating(g, x))


def _scaled(g: Builder, b: Any, alpha: Any) -> Any:
    return b if alpha in (1, None) else binary(g, "Mul", b, alpha)


def _div(g: Builder, a: Any, b: Any, rounding: str | None = None) -> Value:
    a, b = together(g, a, b)
    if rounding is None:
        return binary(g, "Div", floating(g, a), floating(g, b))
    if rounding == "trunc" and not a.dtype.is_floating_point:
        return binary(g, "Div", a, b)
    if not a.dtype.is_floating_point:  # ONNX rounds a quotient of integers towards zero
        return binary(g, "Div", binary(g, "Sub", a, binary(g, "Mod", a, b)), b)
    quotient = binary(g, "Div", a, b)
    if rounding == "floor":
        return g.op("Floor", quotient)
    return binary(g, "Mul", g.op("Sign", quotient), g.op("Floor", g.op("Abs", quotient)))


def _remainder(g: Builder, a: Any, b: Any) -> Value:
    a, b = together(g, a, b)
    if not a.dtype.is_floating_point:
        return binary(g, "Mod", a, b)
    return binary(g, "Sub", a, binary(g, "Mul", g.op("Floor", binary(g, "Div", a, b)), b))


def _logical(kind: str, on_bits: str = "") -> Callable[..., Value]:
    def handler(g: Builder, a: Any, b: Any) -> Value:
        if on_bits and torch.result_type(_dummy(a), _dummy(b)) != torch.bool:
            return binary(g, on_bits, a, b)
        a, b = (g.value(x) if isinstance(x, (Value, Tensor)) else g.scalar(bool(x), torch.bool) for x in (a, b))
        return g.op(kind, g.cast(a, torch.bool), g.cast(b, torch.bool), rank=rank_of(a, b))

    return handler


def _round(g: Builder, x: Any, decimals: int = 0) -> Value:
    if decimals:
        raise UserError("it rounds to decimals")
    return g.op("Round", floating(g, x))


def _bitwise_not(g: Builder, x: Any) -> Value:
    x = g.value(x)
    return g.op("Not" if x.dtype == torch.bool else "BitwiseNot", x)


def _clamp(g: Builder, x: Any, lowest: Any = None, highest: Any = None) -> Value:
    x = g.value(x)
    if any(isinstance(bound, float) for bound in (lowest, highest)):
        x = floating(g, x)
    if all(bound is None or isinstance(bound, (int, float)) for bound in (lowest, highest)):
        if not x.dtype.is_floating_point:
            return g.op(
                "Clip", x, *(None if bound is None else g.scalar(bound, x.dtype) for bound in (lowest, highest))
            )
        return clip(g, x, -_INF if lowest is None else lowest, _INF if highest is None else highest)
    x = x if lowest is None else binary(g, "Max", x, lowest)
    return x if highest is None else binary(g, "Min", x, highest)


def _gelu(g: Builder, x: Any, approximate: str) -> Value:
    half = g.op("Mul", x, g.scalar(0.5))
    if approximate == "none":
        inner = g.op("Erf", g.op("Mul", x, g.scalar(math.sqrt(0.5))))
    else:
        cube = g.op("Mul", g.op("Mul", x, x), x)
        inner = g.op("Add", x, g.op("Mul", cube, g.scalar(0.044715)))
        inner = g.op("Tanh", g.op("Mul", inner, g.scalar(math.sqrt(2 / math.pi))))
    return g.op("Mul", half, g.op("Add", inner, g.scalar(1.0)))


def _glu(g: Builder, x: Any, dim: int) -> Value:
    half, gate = g.ops("Split", x, count=2, axis=axis(dim, g.value(x)), num_outputs=2)
    return g.op("Mul", half, g.op("Sigmoid", gate))


def _elu(g: Builder, x: Any, alpha: float, scale: float, input_scale: float) -> Value:
    if (scale, input_scale) != (1, 1):
        raise UserError("it has scales")
    return g.op("Elu", x, alpha=float(alpha))


def _prelu(g: Builder, x: Value, slope: Any) -> Value:
    if isinstance(slope, Tensor) and slope.dim() == 1:
        assert x.rank is not None, "a file states the rank of every tensor"
        return g.op("PRelu", x, g.constant(slope, (-1, *[1] * max(0, x.rank - 2))))
    return g.op("PRelu", x, slope)


def _softplus(g: Builder, x: Any, beta: float, threshold: float) -> Value:
    if threshold * beta < _SOFTPLUS_LINE:
        raise UserError(f"it is a line from {threshold} on, where the curve is not one yet")
    if beta != 1:
        return g.op("Div", g.op("Softplus", g.op("Mul", x, g.scalar(beta))), g.scalar(beta))
    return g.op("Softplus", x)


def _where(g: Builder, condition: Any, a: Any, b: Any) -> Value:
    condition = g.cast(condition, torch.bool)
    if not any(isinstance(value, (Value, Tensor)) for value in (a, b)):
        dtype = torch.float32 if float in (type(a), type(b)) else torch.int64
        a, b = g.scalar(a, dtype), g.scalar(b, dtype)
    a, b = together(g, a, b)
    return g.op("Where", condition, a, b, dtype=a.dtype, rank=rank_of(condition, a, b))


def _masked_fill(g: Builder, x: Any, mask: Any, value: Any) -> Value:
    x = g.value(x)
    value = g.cast(value, x.dtype) if isinstance(value, (Value, Tensor)) else g.scalar(value, x.dtype)
    mask = g.cast(mask, torch.bool)
    return g.op("Where", mask, value, x, dtype=x.dtype, rank=rank_of(mask, x))


def _to(g: Builder, x: Any, dtype: Any = None, *rest: Any) -> Value:
    return g.value(x) if dtype is None else g.cast(x, dtype)


def _power(g: Builder, a: Any, b: Any) -> Value:
    if isinstance(b, (int, float)) and b == 2:
        a, _ = together(g, a, b)
        return g.op("Mul", a, a)
    return binary(g, "Pow", a, b)


def _filled_like(g: Builder, x: Any, value: Any, dtype: Any = None) -> Value:
    x = g.value(x)
    one = value if isinstance(value, (Value, Tensor)) else g.scalar(value, dtype or x.dtype)
    one = g.cast(one, dtype or x.dtype)
    return g.op("Expand", one, g.op("Shape", x, dtype=torch.int64, rank=1), rank=x.rank)


HANDLERS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}": _unary(name, kind) for name, kind in _UNARY.items()},
    **{
        f"aten.{name}": lambda g, a, b, kind=kind: binary(g, kind, a, b, dtype=torch.bool)
        for name, kind in _COMPARISONS.items()
    },
    "aten.ne": lambda g, a, b: g.op("Not", binary(g, "Equal", a, b, dtype=torch.bool)),
    "aten.add": lambda g, a, b, alpha=1: binary(g, "Add", a, _scaled(g, b, alpha)),
    "aten.sub": lambda g, a, b, alpha=1: binary(g, "Sub", a, _scaled(g, b, alpha)),
    "aten.rsub": lambda g, a, b, alpha=1: binary(g, "Sub", b, _scaled(g, a, alpha)),
    "aten.mul": lambda g, a, b: binary(g, "Mul", a, b),
    "aten.div": _div,
    "aten.floor_divide": lambda g, a, b: _div(g, a, b, "floor"),
    "aten.remainder": _remainder,
    "aten.pow": _power,
    "aten.round": _round,
    "aten.square": lambda g, x: g.op("Mul", x, x),
    "aten.maximum": lambda g, a, b: binary(g, "Max", a, b),
    "aten.minimum": lambda g, a, b: binary(g, "Min", a, b),
    "aten.rsqrt": lambda g, x: g.op("Reciprocal", g.op("Sqrt", floating(g, x))),
    "aten.log1p": lambda g, x: g.op("Log", g.op("Add", x, g.scalar(1.0))),
    "aten.expm1": lambda g, x: g.op("Sub", g.op("Exp", x), g.scalar(1.0)),
    "aten.log2": lambda g, x: g.op("Mul", g.op("Log", floating(g, x)), g.scalar(1 / math.log(2))),
    "aten.isnan": lambda g, x: g.op("IsNaN", x, dtype=torch.bool),
    "aten.isinf": lambda g, x: g.op("IsInf", x, dtype=torch.bool),
    "aten.silu": lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)),
    "aten.relu6": lambda g, x: clip(g, x, 0.0, 6.0),
    "aten.hardsigmoid": lambda g, x: g.op("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "aten.hardtanh": _clamp,
    "aten.clamp": _clamp,
    "aten.clamp_min": lambda g, x, lowest: _clamp(g, x, lowest, None),
    "aten.clamp_max": lambda g, x, highest: _clamp(g, x, None, highest),
    "aten.leaky_relu": lambda g, x, slope: g.op("LeakyRelu", x, alpha=float(slope)),
    "aten.elu": _elu,
    "aten.prelu": _prelu,
    "aten._prelu_kernel": lambda g, x, slope: g.op("PRelu", x, slope),
    "aten.gelu": _gelu,
    "aten.glu": _glu,
    "aten.softplus": _softplus,
    "aten.logical_not": lambda g, x: g.op("Not", g.cast(x, torch.bool)),
    "aten.bitwise_not": _bitwise_not,
    "aten.logical_and": _logical("And"),
    "aten.logical_or": _logical("Or"),
    "aten.bitwise_and": _logical("And", "BitwiseAnd"),
    "aten.__and__": _logical("And", "BitwiseAnd"),
    "aten.__or__": _logical("Or", "BitwiseOr"),
    "aten.bitwise_or": _logical("Or", "BitwiseOr"),
    "aten.where": _where,
    "aten.masked_fill": _masked_fill,
    "aten.to.dtype": _to,
    "aten.to.dtype_layout": _to,
    "aten.to.device": lambda g, x, device, dtype, *rest: _to(g, x, dtype),
    "aten.to.other": lambda g, x, other, *rest: g.cast(x, g.value(other).dtype),
    "aten._to_copy": _to,
    "aten.type_as": lambda g, x, other: g.cast(x, g.value(other).dtype),
    "aten.fill": lambda g, x, value: _filled_like(g, x, value),
    "aten.full_like": lambda g, x, value, dtype, *rest: _filled_like(g, x, value, dtype),
    "aten.zeros_like": lambda g, x, dtype, *rest: _filled_like(g, x, 0, dtype),
    "aten.ones_like": lambda g, x, dtype, *rest: _filled_like(g, x, 1, dtype),
}
