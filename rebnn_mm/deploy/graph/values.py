"""A graph computed node after node, for those that look at what lies between: sizes, signs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.traced import Traced


def computed(traced: Traced, inputs: Sequence[Tensor]) -> Iterator[tuple[fx.Node, dict[fx.Node, Any]]]:
    """(node, values so far) after each input, constant and call.

    A result is forgotten when its last reader has been given out.

    Args:
        traced: Stays as it is.
        inputs: In the order of the graph's.
    """
    values: dict[fx.Node, Any] = {}
    given = iter(inputs)
    last = {source: node for node in traced.graph.nodes for source in node.all_input_nodes}
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = traced.tensors[node.target]
        elif node.op == "call_function":
            args, kwargs = (fx.node.map_arg(part, values.__getitem__) for part in (node.args, node.kwargs))
            with torch.no_grad():
                values[node] = node.target(*_plain(args), **kwargs)
        else:
            continue
        yield node, values
        for source in node.all_input_nodes:
            if last[source] is node and source.op == "call_function":
                del values[source]


def _plain(value: Any) -> Any:
    """``value`` without the list class of torch.fx, which operators do not take."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
