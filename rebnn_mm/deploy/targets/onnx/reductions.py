"""Operators that make one number of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rebnn_mm.deploy.targets.onnx.builder import Builder, Value, axis, fixed
from rebnn_mm.deploy.targets.onnx.elementwise import floating
from rebnn_mm.errors import UserError


def _reduced(g: Builder, kind: str, x: Any, dims: Any, keep: bool) -> Value:
    """``kind`` over some dimensions; None or none is all."""
    x = g.value(x)
    axes = [] if dims is None else [axis(dim, x) for dim in fixed(dims, "dimension")]
    left = 0 if not axes and not keep else x.rank if keep else (x.rank or 0) - len(axes)
    return g.op(kind, x, g.integers(axes) if axes else None, keepdims=int(keep), rank=left)


def _mean(g: Builder, x: Any, dims: Any = None, keep: bool = False, dtype: Any = None) -> Value:
    return _reduced(g, "ReduceMean", floating(g, x), dims, keep)


def _sum(g: Builder, x: Any, dims: Any = None, keep: bool = False, dtype: Any = None) -> Value:
    x = g.value(x)
    wanted = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    return _reduced(g, "ReduceSum", g.cast(x, wanted), dims, keep)


def _extreme(kind: str) -> Callable[..., Value]:
    return lambda g, x, dims=None, keep=False: _reduced(g, kind, x, dims, keep)


def _extreme_with_place(reduce: str, place: str) -> Callable[..., Any]:
    def handler(g: Builder, x: Any, dim: int, keep: bool) -> tuple[Value, Value]:
        return _reduced(g, reduce, x, [dim], keep), _place(g, place, x, dim, keep)

    return handler


def _place(g: Builder, kind: str, x: Any, dim: int | None, keep: bool) -> Value:
    x = g.value(x)
    if dim is None:
        raise UserError("it takes the place in the flattened tensor: name the dimension")
    left = x.rank if keep else (x.rank or 1) - 1
    return g.op(kind, x, dtype=torch.int64, rank=left, axis=axis(dim, x), keepdims=int(keep))


def _truth(kind: str) -> Callable[..., Value]:
    def handler(g: Builder, x: Any, dim: Any = None, keep: bool = False) -> Value:
        number = g.cast(g.cast(x, torch.bool), torch.int32)
        return g.cast(_reduced(g, kind, number, dim, keep), torch.bool)

    return handler


def _deviation(g: Builder, x: Any, dims: Any, correction: Any, keep: bool) -> Value:
    return g.op("Sqrt", _variance(g, x, dims, correction, keep))


def _variance(g: Builder, x: Any, dims: Any, correction: Any, keep: bool) -> Value:
    off = g.op("Sub", x, _reduced(g, "ReduceMean", x, dims, True))
    square = g.op("Mul", off, off)
    if correction == 0:
        return _reduced(g, "ReduceMean", square, dims, keep)
    count = g.op(
        "Sub",
        _reduced(g, "ReduceSum", _ones(g, x), dims, keep),
        g.scalar(1.0 if correction is None else float(correction)),
    )
    return g.op("Div", _reduced(g, "ReduceSum", square, dims, keep), count)


def _ones(g: Builder, x: Value) -> Value:
    return g.op("Expand", g.scalar(1.0), g.op("Shape", x, dtype=torch.int64, rank=1), rank=x.rank)


def _norm(g: Builder, x: Any, p: Any, dims: Any = None, keep: bool = False) -> Value:
    if p not in (None, 1, 2):
        raise UserError(f"the norm p={p}")
    return _reduced(g, "ReduceL1" if p == 1 else "ReduceL2", x, dims, keep)


def _topk(g: Builder, x: Any, count: Any, dim: int, largest: bool, ordered: bool) -> Any:
    count = count if isinstance(count, Value) else g.integers([count])
    own: dict[str, Any] = dict(axis=axis(dim, x), largest=int(largest), sorted=1)
    values, places = g.ops("TopK", x, count, count=2, **own)
    return values, Value(places.name, torch.int64, places.rank)


HANDLERS: dict[str, Callable[..., Any]] = {
    "aten.mean.default": lambda g, x, dtype: _mean(g, x),
    "aten.mean": _mean,
    "aten.sum.default": lambda g, x, dtype: _sum(g, x, None, False, dtype),
    "aten.sum": _sum,
    "aten.amax": _extreme("ReduceMax"),
    "aten.amin": _extreme("ReduceMin"),
    "aten.max.default": _extreme("ReduceMax"),
    "aten.min.default": _extreme("ReduceMin"),
    "aten.max.dim": _extreme_with_place("ReduceMax", "ArgMax"),
    "aten.min.dim": _extreme_with_place("ReduceMin", "ArgMin"),
    "aten.argmax": lambda g, x, dim, keep: _place(g, "ArgMax", x, dim, keep),
    "aten.argmin": lambda g, x, dim, keep: _place(g, "ArgMin", x, dim, keep),
    "aten.all": _truth("ReduceMin"),
    "aten.any": _truth("ReduceMax"),
    "aten.var.correction": _variance,
    "aten.var.dim": lambda g, x, dims, unbiased, keep: _variance(g, x, dims, int(unbiased), keep),
    "aten.std.correction": _deviation,
    "aten.std.dim": lambda g, x, dims, unbiased, keep: _deviation(g, x, dims, int(unbiased), keep),
    "aten.norm.ScalarOpt_dim": _norm,
    "aten.linalg_vector_norm": lambda g, x, p, dims, keep, dtype: _norm(g, x, p, dims, keep),
    "aten.topk": _topk,
    "aten.cumsum": lambda g, x, dim, dtype: g.op("CumSum", g.cast(x, dtype or g.value(x).dtype), g.integers([dim])),
}
