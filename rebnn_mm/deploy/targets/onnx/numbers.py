"""Sizes of the input, and arithmetic of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rebnn_mm.deploy.targets.onnx.builder import Builder, Value


def _pair(g: Builder, a: Any, b: Any) -> tuple[Value, Value]:
    """Both as vectors of one element and of one type: int64, or float32 if either is a float."""
    kinds = {value.dtype if isinstance(value, Value) else type(value) for value in (a, b)}
    dtype = torch.float32 if kinds & {float, torch.float32} else torch.int64
    return _number(g, a, dtype), _number(g, b, dtype)


def _number(g: Builder, value: Any, dtype: torch.dtype) -> Value:
    if isinstance(value, Value):
        return g.cast(value, dtype)
    return g.constant(torch.tensor([value], dtype=dtype))


def _as_size(value: Value) -> Value:
    return Value(value.name, value.dtype, 1, is_size=True)


def _arithmetic(kind: str) -> Callable[..., Value]:
    return lambda g, a, b: _as_size(g.op(kind, *_pair(g, a, b)))


def _comparison(kind: str) -> Callable[..., Value]:
    return lambda g, a, b: _as_size(g.op(kind, *_pair(g, a, b), dtype=torch.bool))


def _floordiv(g: Builder, a: Any, b: Any) -> Value:
    a, b = _pair(g, a, b)
    if a.dtype == torch.float32:
        return _as_size(g.op("Floor", g.op("Div", a, b)))
    # ONNX rounds a quotient of integers towards zero, Python down
    return _as_size(g.op("Div", g.op("Sub", a, g.op("Mod", a, b)), b))


def _truediv(g: Builder, a: Any, b: Any) -> Value:
    return _as_size(g.op("Div", _number(g, a, torch.float32), _number(g, b, torch.float32)))


HANDLERS: dict[str, Callable[..., Any]] = {
    "aten.sym_size": lambda g, x, dim: g.size(x, dim),
    **{f"size.{name}": _arithmetic(kind) for name, kind in (("add", "Add"), ("sub", "Sub"), ("mul", "Mul"))},
    **{f"size.{name}": _arithmetic(kind) for name, kind in (("sym_max", "Max"), ("sym_min", "Min"), ("mod", "Mod"))},
    **{f"size.{name}": _comparison(kind) for name, kind in (("eq", "Equal"), ("lt", "Less"), ("gt", "Greater"))},
    "size.le": _comparison("LessOrEqual"),
    "size.ge": _comparison("GreaterOrEqual"),
    "size.ne": lambda g, a, b: _as_size(g.op("Not", g.op("Equal", *_pair(g, a, b), dtype=torch.bool))),
    "size.floordiv": _floordiv,
    "size.truediv": _truediv,
    "size.neg": lambda g, a: _as_size(g.op("Neg", a)),
    "size.sym_float": lambda g, a: _as_size(g.cast(a, torch.float32)),
}
