"""A graph as plain values, for a file's header, and back: no code is stored, and none runs on load.

::

    inputs   [{dtype, shape, least, most}, ...]       see :class:`~rebnn_mm.deploy.graph.traced.InputSpec`; most is not
                                                      there where no dimension has a largest size
    nodes    [[operator, args, kwargs, form], ...]    in the order of computation
    output   a value
    single   true where the graph is for one image, (1, ...), and others are computed one by one; else not there

An operator is one of :data:`~rebnn_mm.deploy.graph.operators.OPERATORS`; everything else is refused. A value is None, a
bool, a number, a string, a list of values, or a dict with one key: ``{"input": i}``, ``{"node": i}`` for an earlier
node's result, ``{"tensor": name}`` for a tensor of the file, ``{"dtype": name}``, ``{"memory_format": name}``, and in
outputs ``{"tuple": [...]}`` and ``{"dict": [[key, value], ...]}``. ``form`` is the number of dimensions of a node's
result, ``"channels_last"`` for a 4-d one that the trained network holds in that memory, or None for what is no tensor.
A tensor that the file holds in 8 bits stands for its float values.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.file.container import RebnnFileError
from rebnn_mm.deploy.graph.operators import OPERATORS, name_of
from rebnn_mm.deploy.graph.traced import InputSpec, Traced
from rebnn_mm.deploy.operation.int8 import dequantize
from rebnn_mm.errors import UserError

_INPUT_DTYPES = ("float32", "int64", "int32", "bool")
# what a graph may compute with between its inputs and its outputs
_DTYPES = {
    str(value).removeprefix("torch."): value
    for value in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}
_FORMATS = {
    str(value).removeprefix("torch."): value
    for value in (torch.contiguous_format, torch.channels_last, torch.preserve_format)
}
_MOST_NODES = 1 << 17
_DEEPEST = 16
SCALE = ":scale"


def encode(traced: Traced) -> dict[str, Any]:
    """Plain values that say what ``traced`` computes; its tensors are stored beside them.

    Raises:
        UserError: It calls an operator that files do not hold.
    """
    places: dict[fx.Node, dict[str, Any]] = {}
    nodes: list[list[Any]] = []
    inputs = 0
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            places[node], inputs = {"input": inputs}, inputs + 1
        elif node.op == "get_attr":
            places[node] = {"tensor": node.target}
        elif node.op == "call_function":
            args, kwargs = (_encoded(part, places) for part in (list(node.args), dict(node.kwargs)))
            nodes.append([name_of(node.target), args, kwargs, _form(node.meta.get("val"))])
            places[node] = {"node": len(nodes) - 1}
        elif node.op == "output":
            output = _output(node.args[0], places)
    return dict(inputs=[_input(spec) for spec in traced.inputs], nodes=nodes, output=output)


def _input(spec: InputSpec) -> dict[str, Any]:
    own = asdict(spec)
    return own if any(own["most"]) else {key: value for key, value in own.items() if key != "most"}


def _form(value: Any) -> int | str | None:
    if not isinstance(value, Tensor):
        return None
    if value.dim() != 4:
        return value.dim()
    # of sizes that are left open, those that the network was captured with
    shape, strides = ([_known(size) for size in sizes] for sizes in (value.shape, value.stride()))
    if None in (*shape, *strides):  # as many as a value says: nothing holds these in channels-last memory
        return 4
    known = torch.empty_strided(shape, strides, device="meta")
    last = known.is_contiguous(memory_format=torch.channels_last) and not known.is_contiguous()
    return "channels_last" if last else 4


def _known(size: Any) -> int | None:
    return size if isinstance(size, int) else size.node.hint


def _encoded(value: Any, places: dict[fx.Node, dict[str, Any]]) -> Any:
    if isinstance(value, fx.Node):
        return places[value]
    if isinstance(value, (list, tuple)):
        return [_encoded(item, places) for item in value]
    if isinstance(value, dict):
        # where a tensor lives and how it is stored in memory is the run-time's business
        kept = {key: item for key, item in value.items() if key not in ("device", "layout", "pin_memory")}
        return {str(key): _encoded(item, places) for key, item in kept.items()}
    for kind, names in (("dtype", _DTYPES), ("memory_format", _FORMATS)):
        for name, known in names.items():
            if value is known:
                return {kind: name}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise UserError(f"a graph holds a {type(value).__name__} ({value}), which files do not: export another module")


def _output(value: Any, places: dict[fx.Node, dict[str, Any]]) -> Any:
    if isinstance(value, tuple):
        return {"tuple": [_output(item, places) for item in value]}
    if isinstance(value, list):
        return [_output(item, places) for item in value]
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise UserError(f"the network returns a dict with the key {wrong[0]!r}, and files hold strings: rename it")
        return {"dict": [[key, _output(item, places)] for key, item in value.items()]}
    return _encoded(value, places)


def decode(record: Any, tensors: dict[str, Tensor]) -> Traced:
    """The graph of :func:`encode`, checked; a weight in 8 bits comes in with a call of :func:`dequantize`.

    Args:
        record: Plain values.
        tensors: Those that the file holds; with an int8 one comes its scale, under :func:`scale_name`.

    Raises:
        RebnnFileError: The record is not what this module describes.
    """
    try:
        return _Decoder(record, tensors).traced()
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise RebnnFileError(f"the file's graph is malformed: {error}") from None


class _Decoder:
    """Builds the graph node by node; a reference is good only to what stands before it."""

    def __init__(self, record: Any, tensors: dict[str, Tensor]) -> None:
        self.record, self.tensors = record, tensors
        self.graph = fx.Graph()
        self.inputs: list[fx.Node] = []
        self.nodes: list[fx.Node] = []
        self.attributes: dict[str, fx.Node] = {}
        self.floats: dict[str, fx.Node] = {}  # of weights in 8 bits

    def traced(self) -> Traced:
        specs = [_input_spec(row) for row in self.record["inputs"]]
        self.inputs = [self.graph.placeholder(f"input_{index}") for index in range(len(specs))]
        for node, spec in zip(self.inputs, specs, strict=True):
            node.meta["rank"] = len(spec.shape)
        rows = self.record["nodes"]
        if not isinstance(rows, list) or len(rows) > _MOST_NODES:
            raise ValueError(f"nodes are a list of at most {_MOST_NODES:,}")
        for row in rows:
            name, args, kwargs, form = row
            if name not in OPERATORS:
                raise ValueError(f"{name!r} is no operator that a file may call")
            if not isinstance(args, list) or not isinstance(kwargs, dict) or not all(map(str.isidentifier, kwargs)):
                raise ValueError(f"{name}: arguments are a list, keywords a dict of names")
            node = self.graph.call_function(
                OPERATORS[name],
                tuple(self._value(item, 0) for item in args),
                {key: self._value(item, 0) for key, item in kwargs.items()},
            )
            node.meta["trained_last"] = form == "channels_last"
            node.meta["rank"] = 4 if form == "channels_last" else form if type(form) is int else None
            self.nodes.append(node)
        self.graph.output(self._value(self.record["output"], 0))
        return Traced(self.graph, {name: self.tensors[name] for name in self.attributes}, specs)

    def _value(self, value: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("a value is nested too deeply")
        if isinstance(value, (list, tuple)):
            return [self._value(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            if value is not None and type(value) not in (bool, int, float, str):
                raise ValueError(f"{type(value).__name__} is no value of a graph")
            return value
        ((kind, content),) = value.items()
        if kind == "input":
            return self.inputs[_index(content)]
        if kind == "node":
            return self.nodes[_index(content)]
        if kind == "tensor":
            return self._tensor(content)
        if kind == "tuple":
            return tuple(self._value(item, depth + 1) for item in content)
        if kind == "dict":
            return {str(key): self._value(item, depth + 1) for key, item in content}
        return {"dtype": _DTYPES, "memory_format": _FORMATS}[kind][content]

    def _tensor(self, name: Any) -> fx.Node:
        if name not in self.tensors:
            raise ValueError(f"it names the tensor {name!r}, which the file does not hold")
        if self.tensors[name].dtype != torch.int8:
            return self._attribute(name)
        if name not in self.floats:
            parts = self._attribute(name), self._attribute(scale_name(name))
            self.floats[name] = self.graph.call_function(dequantize, parts)
            self.floats[name].meta["rank"] = self.tensors[name].dim()
        return self.floats[name]

    def _attribute(self, name: str) -> fx.Node:
        if name not in self.attributes:
            self.attributes[name] = self.graph.create_node("get_attr", name)
            self.attributes[name].meta["rank"] = self.tensors[name].dim()
        return self.attributes[name]


def scale_name(name: str) -> str:
    """The name under which a graph has the scale of the 8-bit weight ``name``."""
    return f"{name}{SCALE}"


def _index(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no place in the graph")
    return value


def _input_spec(row: Any) -> InputSpec:
    shape, least = tuple(row["shape"]), tuple(row["least"])
    most = tuple(row.get("most", [None] * len(shape)))
    if row["dtype"] not in _INPUT_DTYPES or not len(shape) == len(least) == len(most):
        raise ValueError(f"an input of {row}")
    if not all(size is None or (type(size) is int and size >= 0) for size in (*shape, *most)):
        raise ValueError(f"an input of the shape {shape}, at most {most}")
    if not all(type(size) is int and size >= 0 for size in least):
        raise ValueError(f"an input of at least {least}")
    return InputSpec(row["dtype"], shape, least, most)
