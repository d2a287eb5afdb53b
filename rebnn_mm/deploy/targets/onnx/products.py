"""Products of matrices, attention, and norms of the last dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rebnn_mm.deploy.targets.onnx.builder import Builder, Value, axis
from rebnn_mm.deploy.targets.onnx.elementwise import binary, rank_of
from rebnn_mm.errors import UserError


def _linear(g: Builder, x: Any, weight: Any, bias: Any) -> Value:
    x, weight = g.value(x), g.value(weight)
    if x.rank == 2:
        return g.op("Gemm", x, weight, bias, transB=1)
    y = g.op("MatMul", x, g.op("Transpose", weight, perm=[1, 0]))
    return y if bias is None else g.op("Add", y, bias)


def matmul(g: Builder, a: Any, b: Any) -> Value:
    """A product of (batches of) matrices."""
    a, b = g.value(a), g.value(b)
    rank = rank_of(a, b)
    return g.op("MatMul", a, b, rank=rank if rank is None or min(a.rank or 0, b.rank or 0) > 1 else rank - 1)


def _added(g: Builder, bias: Any, a: Any, b: Any, beta: float, alpha: float) -> Value:
    product = matmul(g, a, b)
    product = product if alpha == 1 else binary(g, "Mul", product, alpha)
    return binary(g, "Add", bias if beta == 1 else binary(g, "Mul", bias, beta), product)


def _softmax(g: Builder, x: Any, dim: int, dtype: Any = None) -> Value:
    return g.op("Softmax", x, axis=axis(dim, g.value(x)))


def _layer_norm(g: Builder, x: Any, shape: Sequence[Any], weight: Any, bias: Any, eps: float, *rest: Any) -> Value:
    weight = torch.ones(tuple(shape)) if weight is None else weight
    return g.op("LayerNormalization", x, weight, bias, axis=-len(shape), epsilon=float(eps))


def _rms_norm(g: Builder, x: Any, shape: Sequence[Any], weight: Any, eps: float | None) -> Value:
    axes = g.integers(range(-len(shape), 0))
    power = g.op("ReduceMean", g.op("Mul", x, x), axes, keepdims=1)
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    y = g.op("Div", x, g.op("Sqrt", g.op("Add", power, g.scalar(eps))))
    return y if weight is None else g.op("Mul", y, weight)


def _embedding(g: Builder, table: Any, index: Any, *rest: Any) -> Value:
    index = g.value(index)
    return g.op("Gather", table, index, axis=0, rank=None if index.rank is None else index.rank + 1)


def _attention(
    g: Builder,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    dropout: float,
    causal: bool,
    scale: Any = None,
    grouped: bool = False,
) -> Value:
    """``softmax(query @ key^T * scale + mask) @ value``."""
    if dropout or grouped:
        raise UserError("it has dropout or grouped queries")
    query, key = g.value(query), g.value(key)
    rank = query.rank
    assert rank is not None, "a file states the rank of every tensor"
    order = [*range(rank - 2), rank - 1, rank - 2]
    if scale is None:
        width = g.cast(g.size(query, -1), torch.float32)
        query = g.op("Div", query, g.op("Sqrt", width), rank=rank)
    else:
        query = g.op("Mul", query, g.scalar(scale))
    scores = g.op("MatMul", query, g.op("Transpose", key, perm=order))
    if causal:
        mask = _causal(g, query, key)
    if mask is not None:
        mask = g.value(mask)
        if mask.dtype == torch.bool:
            mask = g.op("Where", mask, g.scalar(0.0), g.scalar(-math.inf), dtype=torch.float32)
        scores = g.op("Add", scores, mask, rank=rank)
    return g.op("MatMul", g.op("Softmax", scores, axis=rank - 1), value)


def _causal(g: Builder, query: Value, key: Value) -> Value:
    sizes = g.op("Concat", g.size(query, -2), g.size(key, -2), axis=0, rank=1)
    ones = g.op("Expand", g.scalar(1, torch.int64), sizes, rank=2)
    return g.cast(g.op("Trilu", ones, upper=0), torch.bool)


def _einsum(g: Builder, equation: str, tensors: Sequence[Any], *rest: Any) -> Value:
    if "->" not in equation:
        raise UserError(f"the equation {equation!r} leaves its result open: write it behind '->'")
    return g.op("Einsum", *tensors, equation=equation)


HANDLERS: dict[str, Callable[..., Any]] = {
    "aten.linear": _linear,
    **{f"aten.{name}": matmul for name in ("matmul", "mm", "bmm", "dot")},
    "aten.addmm": _added,
    "aten.baddbmm": _added,
    "aten.einsum": _einsum,
    "aten.softmax": _softmax,
    "aten._softmax": _softmax,
    "aten.log_softmax": lambda g, x, dim, *rest: g.op("LogSoftmax", x, axis=axis(dim, g.value(x))),
    "aten.layer_norm": _layer_norm,
    "aten.native_layer_norm": lambda g, *arguments: (_layer_norm(g, *arguments),),
    "aten.rms_norm": _rms_norm,
    "aten.embedding": _embedding,
    "aten.scaled_dot_product_attention": _attention,
}
