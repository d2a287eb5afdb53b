"""From a file's graph to an ONNX graph, operator by operator."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.operators import name_of
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.deploy.operation.int8 import dequantize
from rebnn_mm.deploy.targets.onnx import elementwise, images, numbers, products, reductions, shapes
from rebnn_mm.deploy.targets.onnx.builder import Builder, Value
from rebnn_mm.deploy.targets.onnx.units import Signs, add_unit, weight_of
from rebnn_mm.errors import UserError

Handler = Callable[..., Any]

# A handler takes the builder and the operator's arguments in the order of its schema, defaults filled in: a Value for
# what is computed, a tensor for a constant, a plain Python value for the rest. Names are without the overload, but
# where overloads differ in their arguments.
HANDLERS: dict[str, Handler] = {
    **elementwise.HANDLERS,
    **images.HANDLERS,
    **numbers.HANDLERS,
    **products.HANDLERS,
    **reductions.HANDLERS,
    **shapes.HANDLERS,
    "rebnn.unpack_signs": lambda g, bits, shape: weight_of(g, bits, tuple(shape)),
}


def convert(g: Builder, traced: Traced, inputs: Sequence[Value]) -> Any:
    """Add all of ``traced`` to ``g``; its output, with a value or a constant tensor for each node.

    Args:
        g: The ONNX graph.
        traced: A file's graph.
        inputs: One for each of ``traced.inputs``.

    Raises:
        UserError: It calls an operator that this export does not know, or in a way that ONNX cannot express.
    """
    values: dict[fx.Node, Any] = {}
    given = iter(inputs)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = traced.tensors[node.target]
            g.call_it(values[node], node.target)
        elif node.target is dequantize:
            values[node] = dequantize(*(values[source] for source in node.args))
            g.call_it(values[node], node.args[0].target)
        elif node.op == "output":
            return fx.node.map_arg(node.args[0], values.__getitem__)
        else:
            values[node] = _ranked(_called(g, node, values), node)
    raise AssertionError("a graph ends with its output")


def _ranked(value: Any, node: fx.Node) -> Any:
    """The value with the number of dimensions that the file states."""
    rank = node.meta.get("rank")
    if not isinstance(value, Value) or value.is_size or rank is None:
        return value
    return Value(value.name, value.dtype, rank)


def _called(g: Builder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    unit = Unit.of(node)
    if unit is not None:
        return add_unit(g, unit, values.__getitem__)
    name = name_of(node.target)
    args, kwargs = _plain(node.args, values), _plain(node.kwargs, values)
    leaves = _leaves([args, kwargs])
    if node.target is operator.getitem:
        return args[0][args[1]]
    if name != "rebnn.unpack_signs" and not any(isinstance(leaf, (Value, Signs)) for leaf in leaves):
        with torch.no_grad():  # constants only: computed here
            return node.target(*args, **kwargs)  # type: ignore[operator]
    handler = HANDLERS.get(name) or HANDLERS.get(name.rpartition(".")[0])
    if handler is None:
        raise UserError(f"ONNX export does not know the operator {name}, which the network calls")
    try:
        return handler(g, *_bound(node.target, args, kwargs))
    except UserError as error:
        raise UserError(f"ONNX export cannot express {name} as the network calls it: {error}") from None


def _plain(value: Any, values: dict[fx.Node, Any]) -> Any:
    if isinstance(value, fx.Node):
        return values[value]
    if isinstance(value, (list, tuple)):
        return [_plain(item, values) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, values) for key, item in value.items()}
    return value


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _bound(target: Any, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments in the order of the operator's schema, defaults filled in."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return args
    rest = schema.arguments[len(args) :]
    return args + [kwargs.get(argument.name, argument.default_value) for argument in rest]


def leaves_by_name(output: Any, name: str) -> dict[str, Value | Tensor]:
    """Values of a nested output under names: keys of dicts as they are, places in lists behind ``name``.

    A key that stands in several dicts, ``cls`` of each level, is followed by the dict's own place or key: ``cls_0``.

    Raises:
        UserError: Two values would have one name all the same.
    """
    if isinstance(output, dict):
        named = {str(own): leaves_by_name(item, str(own)) for own, item in output.items()}
    elif isinstance(output, (list, tuple)):
        named = {str(index): leaves_by_name(item, f"{name}_{index}") for index, item in enumerate(output)}
    else:
        return {name: output} if isinstance(output, (Value, Tensor)) else {}
    count = Counter(key for leaves in named.values() for key in leaves)
    found: dict[str, Value | Tensor] = {}
    for place, leaves in named.items():
        for key, leaf in leaves.items():
            key = key if count[key] == 1 else f"{key}_{place}"
            if key in found:
                raise UserError(f"two outputs of the network would be named {key!r}: rename one of its keys")
            found[key] = leaf
    return found
