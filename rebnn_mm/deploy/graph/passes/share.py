"""Compute once what is computed several times: the same operator on the same arguments."""

from __future__ import annotations

from typing import Any

from torch import fx

from rebnn_mm.deploy.graph.passes.simplify import draws
from rebnn_mm.deploy.graph.traced import Traced


def share(traced: Traced) -> None:
    """Let later equal calls read the first one's result; all operators of a graph are functions."""
    seen: dict[Any, fx.Node] = {}
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or draws(node):
            continue
        key = (node.target, _plain(node.args), _plain(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            traced.graph.erase_node(node)
        else:
            seen[key] = node


def _plain(value: Any) -> Any:
    """A hashable form in which equal arguments are equal."""
    if isinstance(value, dict):
        return tuple((key, _plain(item)) for key, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return value if isinstance(value, fx.Node) else (type(value).__name__, repr(value))
