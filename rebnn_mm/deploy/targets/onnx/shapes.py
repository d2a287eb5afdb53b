"""Operators that move elements and compute none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.targets.onnx.builder import Builder, Value, axis, fixed
from rebnn_mm.errors import UserError

_MOST = (1 << 63) - 1
_SMALL = 1 << 16  # elements of a tensor that may be a constant, and not filled on each run


def _rank(x: Value) -> int:
    if x.rank is None:
        raise UserError("its input's number of dimensions is not known")
    return x.rank


def _reshape(g: Builder, x: Any, sizes: Sequence[Any]) -> Value:
    return g.reshape(x, sizes)


def _flatten(g: Builder, x: Value, start: int, end: int) -> Value:
    rank = _rank(x)
    if rank == 0:
        return g.reshape(x, [1])
    start, end = axis(start, x), axis(end, x)
    # a 0 keeps the size at its place
    return g.reshape(x, [*[0] * start, -1, *(g.size(x, dim) for dim in range(end + 1, rank))])


def _unflatten(g: Builder, x: Value, dim: int, sizes: Sequence[Any]) -> Value:
    dim = axis(dim, x)
    return g.reshape(x, [*[0] * dim, *sizes, *(g.size(x, later) for later in range(dim + 1, _rank(x)))])


def _permute(g: Builder, x: Value, dims: Sequence[int]) -> Value:
    return g.op("Transpose", x, perm=[axis(dim, x) for dim in dims])


def _transpose(g: Builder, x: Value, a: int = 0, b: int = 1) -> Value:
    order = list(range(_rank(x)))
    if not order:
        return x
    a, b = axis(a, x), axis(b, x)
    order[a], order[b] = order[b], order[a]
    return g.op("Transpose", x, perm=order)


def _t(g: Builder, x: Value) -> Value:
    return x if _rank(x) < 2 else _transpose(g, x)


def _movedim(g: Builder, x: Value, source: Any, target: Any) -> Value:
    sources, targets = ([axis(dim, x) for dim in fixed(dims, "dimension")] for dims in (source, target))
    rest = iter(dim for dim in range(_rank(x)) if dim not in sources)
    placed = dict(zip(targets, sources, strict=True))
    return g.op("Transpose", x, perm=[placed[dim] if dim in placed else next(rest) for dim in range(_rank(x))])


def _unsqueeze(g: Builder, x: Value, dim: int) -> Value:
    return g.op("Unsqueeze", x, g.integers([axis(dim, x, 1)]), rank=_rank(x) + 1)


def _squeeze(g: Builder, x: Value, dims: Any = None) -> Value:
    if dims is None:
        raise UserError("which dimensions are 1 depends on the input: name the dimension")
    dims = [axis(dim, x) for dim in fixed(dims, "dimension")]
    return g.op("Squeeze", x, g.integers(dims), rank=_rank(x) - len(dims))


def _select(g: Builder, x: Any, dim: int, index: Any) -> Value:
    x = g.value(x)
    place = g.op("Squeeze", index, rank=0) if isinstance(index, Value) else g.scalar(index, torch.int64)
    return g.op("Gather", x, place, rank=_rank(x) - 1, axis=axis(dim, x))


def _slice(g: Builder, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Value:
    x = g.value(x)
    start, end = (start or 0), _MOST if end is None else end
    return g.op("Slice", x, g.vector([start]), g.vector([end]), g.integers([axis(dim, x)]), g.vector([step]))


def _narrow(g: Builder, x: Any, dim: int, start: Any, length: Any) -> Value:
    if _moves(start, length):
        return _slice(g, x, dim, start, g.op("Add", g.vector([start]), g.vector([length])))
    end = start + length
    return _slice(g, x, dim, start, None if start < 0 and end == 0 else end)  # the last ones end at the end, not at 0


def _moves(*values: Any) -> bool:
    return any(isinstance(value, (Value, Tensor)) for value in values)


def _cat(g: Builder, tensors: Sequence[Any], dim: int = 0) -> Value:
    values = [g.value(x) for x in tensors]
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = torch.promote_types(dtype, value.dtype)
    return g.op("Concat", *(g.cast(value, dtype) for value in values), axis=axis(dim, values[0]))


def _stack(g: Builder, tensors: Sequence[Any], dim: int = 0) -> Value:
    return _cat(g, [_unsqueeze(g, g.value(x), dim) for x in tensors], axis(dim, g.value(tensors[0]), 1))


def _chunk(g: Builder, x: Value, count: int, dim: int = 0) -> tuple[Value, ...]:
    return g.ops("Split", x, count=count, axis=axis(dim, x), num_outputs=count)


def _split(g: Builder, x: Value, sizes: Any, dim: int = 0) -> tuple[Value, ...]:
    if not isinstance(sizes, (list, tuple)):
        raise UserError("how many pieces it gives depends on the input: name the size of each")
    return g.ops("Split", x, g.vector(sizes), count=len(sizes), axis=axis(dim, x))


class _Slices:
    """Pieces of one size, made when they are asked for: how many there are is not known here."""

    def __init__(self, g: Builder, x: Value, size: int, dim: int) -> None:
        self.g, self.x, self.size, self.dim = g, x, size, dim

    def __getitem__(self, index: int) -> Value:
        if index < 0:
            raise UserError("ONNX export cannot count the pieces of aten.split from their end")
        return _slice(self.g, self.x, self.dim, index * self.size, (index + 1) * self.size)


class _Rows:
    """``unbind``: what lies at each place of a dimension, made when it is asked for."""

    def __init__(self, g: Builder, x: Value, dim: int = 0) -> None:
        self.g, self.x, self.dim = g, x, dim

    def __getitem__(self, index: int) -> Value:
        return _select(self.g, self.x, self.dim, index)


def _split_evenly(g: Builder, x: Value, size: Any, dim: int = 0) -> Any:
    if isinstance(size, (list, tuple)):
        return _split(g, x, size, dim)
    return _Slices(g, x, fixed(size, "size")[0], dim)


def _expand(g: Builder, x: Any, sizes: Sequence[Any], *rest: Any) -> Value:
    # Expand broadcasts: a 1 keeps a size, as torch's -1 does
    kept = [1 if isinstance(size, int) and size == -1 else size for size in sizes]
    return g.op("Expand", x, g.vector(kept), rank=len(sizes))


def _like(g: Builder, x: Any, other: Value) -> Value:
    return g.op("Expand", x, g.op("Shape", other, dtype=torch.int64, rank=1), rank=other.rank)


def _repeat(g: Builder, x: Value, repeats: Sequence[Any]) -> Value:
    more = len(repeats) - _rank(x)
    if more < 0:  # tile: leading ones
        repeats, more = [*[1] * -more, *repeats], 0
    elif more:
        x = g.op("Unsqueeze", x, g.integers(range(more)), rank=len(repeats))
    return g.op("Tile", x, g.vector(repeats))


def _flip(g: Builder, x: Value, dims: Sequence[int]) -> Value:
    for dim in dims:
        x = g.op("Slice", x, *(g.integers([n]) for n in (-1, -_MOST, axis(dim, x), -1)))
    return x


def _roll(g: Builder, x: Value, shifts: Any, dims: Any = ()) -> Value:
    shifts, dims = fixed(shifts, "shift"), fixed(dims, "dimension")
    if not dims:
        raise UserError("it rolls the flattened tensor: name the dimension")
    for shift, dim in zip(shifts, dims, strict=True):
        if shift:
            start = g.op("Mod", g.integers([-shift]), g.size(x, dim))  # a shift may be larger than the size
            parts = _slice(g, x, dim, start), _slice(g, x, dim, 0, start)
            x = g.op("Concat", *parts, axis=axis(dim, x))
    return x


def _index(g: Builder, x: Any, indices: Sequence[Any]) -> Value:
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1:
        raise UserError("it is indexed by several tensors")
    dim, index = given[0]
    index, x = g.value(index), g.value(x)
    if index.dtype == torch.bool:
        raise UserError("how much a mask selects depends on the input")
    return g.op("Gather", x, index, axis=dim, rank=_rank(x) - 1 + _rank(index))


def _full(g: Builder, sizes: Sequence[Any], number: Any, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        dtype = {bool: torch.bool, int: torch.int64}.get(type(number), torch.float32)
    if not _moves(*sizes, number) and prod(sizes) <= _SMALL:
        return torch.full(tuple(sizes), number, dtype=dtype)  # what is made of it is computed here too
    one = g.value(number) if isinstance(number, (Value, Tensor)) else g.scalar(number, dtype)
    return g.op("Expand", g.cast(one, dtype), g.vector(sizes), rank=len(sizes))


def _new(number: float) -> Callable[..., Any]:
    return lambda g, x, sizes, dtype, *rest: _full(g, sizes, number, dtype or g.value(x).dtype)


def _plain(number: float) -> Callable[..., Any]:
    return lambda g, sizes, dtype, *rest: _full(g, sizes, number, dtype or torch.float32)


def _arange(g: Builder, start: Any, end: Any, step: Any, dtype: torch.dtype | None) -> Value:
    if dtype is None:
        dtype = torch.float32 if any(isinstance(value, float) for value in (start, end, step)) else torch.int64
    ends = (
        g.op("Squeeze", g.cast(value, dtype), rank=0) if isinstance(value, Value) else g.scalar(value, dtype)
        for value in (start, end, step)
    )
    return g.op("Range", *ends, rank=1)


def _copy(g: Builder, x: Value, source: Any, *rest: Any) -> Value:
    return _like(g, g.cast(source, x.dtype), x)


def _triangle(upper: int) -> Callable[..., Value]:
    return lambda g, x, diagonal=0: g.op("Trilu", x, g.scalar(diagonal, torch.int64), upper=upper)


def _same(g: Builder, x: Any, *rest: Any) -> Value:
    return g.value(x)


HANDLERS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}": _same for name in ("clone", "contiguous")},
    "aten.reshape": _reshape,
    "aten.view": _reshape,
    "aten.view_as": lambda g, x, other: g.op("Reshape", x, g.op("Shape", other, dtype=torch.int64), rank=other.rank),
    "aten.flatten": _flatten,
    "aten.unflatten": _unflatten,
    "aten.permute": _permute,
    "aten.transpose": _transpose,
    "aten.t": _t,
    "aten.movedim": _movedim,
    "aten.unsqueeze": _unsqueeze,
    "aten.squeeze": _squeeze,
    "aten.select": _select,
    "aten.slice": _slice,
    "aten.narrow": _narrow,
    "aten.index_select": lambda g, x, dim, index: g.op("Gather", x, index, axis=axis(dim, g.value(x))),
    "aten.gather": lambda g, x, dim, index, *rest: g.op("GatherElements", x, index, axis=axis(dim, g.value(x))),
    "aten.index": _index,
    "aten.cat": _cat,
    "aten.stack": _stack,
    "aten.chunk": _chunk,
    "aten.split": _split_evenly,
    "aten.split_with_sizes": _split,
    "aten.unbind": _Rows,
    "aten.expand": _expand,
    "aten.expand_as": _like,
    "aten.repeat": _repeat,
    "aten.tile": _repeat,
    "aten.flip": _flip,
    "aten.roll": _roll,
    "aten.full": lambda g, sizes, number, dtype, *rest: _full(g, sizes, number, dtype),
    "aten.zeros": _plain(0),
    "aten.ones": _plain(1),
    "aten.new_zeros": _new(0),
    "aten.new_ones": _new(1),
    "aten.new_full": lambda g, x, sizes, number, dtype, *rest: _full(g, sizes, number, dtype or g.value(x).dtype),
    "aten.scalar_tensor": lambda g, number, dtype, *rest: g.reshape(g.cast(number, dtype or torch.float32), []),
    "aten.arange.default": lambda g, end, dtype, *rest: _arange(g, 0, end, 1, dtype),
    "aten.arange.start": lambda g, start, end, dtype, *rest: _arange(g, start, end, 1, dtype),
    "aten.arange.start_step": lambda g, start, end, step, dtype, *rest: _arange(g, start, end, step, dtype),
    "aten.copy": _copy,
    "aten.tril": _triangle(0),
    "aten.triu": _triangle(1),
}
