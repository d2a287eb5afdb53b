"""An ONNX graph that grows node by node; its values know their type and number of dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rebnn_mm.errors import UserError

# numbers of onnx.TensorProto.DataType
ONNX_TYPES = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
}


@dataclass(frozen=True)
class Value:
    """A result of the ONNX graph.

    Attributes:
        name: In the graph.
        dtype: Type of its elements.
        rank: Number of dimensions; None where nothing needs it.
        is_size: It stands for a Python number, a size of the input: int64 of shape (1,).
    """

    name: str
    dtype: torch.dtype
    rank: int | None = None
    is_size: bool = False


class Builder:
    """Nodes and constants in the order they are added.

    Args:
        form: See :mod:`rebnn_mm.deploy.targets.onnx`.
    """

    def __init__(self, form: str = "float") -> None:
        self.form = form
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._names: set[str] = set()
        self._wanted: dict[int, str] = {}  # names of constants, by the identity of their tensors
        self._made: dict[Any, Value] = {}
        self._alive: list[Tensor] = []  # an identity is good for as long as its tensor lives

    def input(self, name: str, dtype: torch.dtype, rank: int) -> Value:
        """An input of the graph."""
        return Value(self._unique(name), dtype, rank)

    def op(
        self,
        kind: str,
        *inputs: Value | Tensor | None,
        dtype: torch.dtype | None = None,
        rank: int | None = None,
        domain: str = "",
        name: str = "",
        **attributes: Any,
    ) -> Value:
        """Append a node with one result, of the type and rank of its first input unless given otherwise."""
        (result,) = self.ops(kind, *inputs, count=1, dtype=dtype, rank=rank, domain=domain, name=name, **attributes)
        return result

    def ops(
        self,
        kind: str,
        *inputs: Value | Tensor | None,
        count: int,
        dtype: torch.dtype | None = None,
        rank: int | None = None,
        domain: str = "",
        name: str = "",
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Append a node with ``count`` results; None among the inputs leaves an optional one out."""
        from onnx import helper

        values = [None if value is None else self.value(value) for value in inputs]
        while values and values[-1] is None:
            values.pop()
        first = next((value for value in values if value is not None), None)
        if first is not None:
            dtype, rank = dtype or first.dtype, first.rank if rank is None else rank
        assert dtype is not None
        stem = name or f"{kind}_{len(self.nodes)}"
        names = [self._unique(stem if count == 1 else f"{stem}_{index}") for index in range(count)]
        given = ["" if value is None else value.name for value in values]
        self.nodes.append(helper.make_node(kind, given, names, name=names[0], domain=domain, **attributes))
        return tuple(Value(own, dtype, rank) for own in names)

    def call_it(self, tensor: Tensor, name: str) -> None:
        """Let the constant ``tensor`` have this name, should it come into the graph."""
        self._alive.append(tensor)
        self._wanted[id(tensor)] = name

    def value(self, value: Value | Tensor) -> Value:
        """A value; of a tensor, the constant that holds it, made once."""
        return value if isinstance(value, Value) else self.constant(value)

    def constant(self, tensor: Tensor, shape: Sequence[int] | None = None) -> Value:
        """A constant, in another shape if one is given."""
        key = (id(tensor), None if shape is None else tuple(shape))
        if key not in self._made:
            from onnx import numpy_helper

            self._alive.append(tensor)
            array = tensor.detach().cpu().resolve_neg().numpy()
            array = array if shape is None else array.reshape(shape)
            name = self._unique(self._wanted.get(id(tensor), f"constant_{len(self.initializers)}"))
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
            self._made[key] = Value(name, tensor.dtype, array.ndim)
        return self._made[key]

    def scalar(self, number: float, dtype: torch.dtype = torch.float32) -> Value:
        """A constant without dimensions."""
        key = (repr(number), dtype)
        if key not in self._made:
            self._made[key] = self.constant(torch.tensor(number, dtype=dtype))
        return self._made[key]

    def integers(self, numbers: Sequence[int]) -> Value:
        """A constant int64 vector."""
        key = tuple(numbers)
        if key not in self._made:
            self._made[key] = self.constant(torch.tensor(key, dtype=torch.int64))
        return self._made[key]

    def remembered(self, key: Any, make: Any) -> Value:
        """``make()``, called once for each key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def cast(self, value: Value | Tensor, dtype: torch.dtype) -> Value:
        """The value as another type."""
        value = self.value(value)
        if value.dtype == dtype:
            return value
        if dtype not in ONNX_TYPES:
            raise UserError(f"{dtype} is no type that this export writes")
        return self.op("Cast", value, dtype=dtype, to=ONNX_TYPES[dtype])

    def size(self, x: Value, dim: int) -> Value:
        """A size of ``x``."""
        dim = axis(dim, x)
        name = self.op("Shape", x, dtype=torch.int64, rank=1, start=dim, end=dim + 1).name
        return Value(name, torch.int64, 1, is_size=True)

    def vector(self, sizes: Sequence[int | Value]) -> Value:
        """An int64 vector of numbers and sizes."""
        if all(isinstance(size, int) for size in sizes):
            return self.integers(sizes)  # type: ignore[arg-type]
        parts = [size if isinstance(size, Value) else self.integers([size]) for size in sizes]
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, rank=1, axis=0)

    def reshape(self, x: Value | Tensor, sizes: Sequence[int | Value]) -> Value:
        """``x`` in another shape; one size may be -1."""
        return self.op("Reshape", x, self.vector(sizes), rank=len(sizes))

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        while unique in self._names:
            unique, number = f"{name}.{number}", number + 1
        self._names.add(unique)
        return unique


def axis(dim: int, x: Value, more: int = 0) -> int:
    """``dim`` counted from the front; ``more`` dimensions are to be added."""
    if dim >= 0:
        return dim
    if x.rank is None:
        raise UserError("its input's number of dimensions is not known")
    return dim + x.rank + more


def fixed(values: Any, what: str) -> list[int]:
    """A list of plain integers.

    Raises:
        UserError: One of them is computed from the size of an input.
    """
    given = list(values) if isinstance(values, (list, tuple)) else [values]
    if any(isinstance(value, (Value, Tensor)) for value in given):
        raise UserError(f"its {what} depends on an input")
    return [int(value) for value in given]
