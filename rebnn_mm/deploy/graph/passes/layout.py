"""One memory layout from end to end: channels last, wherever no real-valued operator rounds otherwise in it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from rebnn_mm.deploy.graph.functions import (
    Pointwise,
    affine,
    conv2d_exact,
    conv2d_last,
    max_pool_affine,
)
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import CONV, CONV_BOTH, IMAGES
from rebnn_mm.deploy.layers.transpose import to_first, to_last

# the same bits in any layout: they compute each element by itself, or by a maximum, or one window in its own order
_ANY = """add sub mul div relu relu6 hardtanh clamp clamp_min clamp_max hardswish hardsigmoid tanh prelu leaky_relu neg
exp maximum minimum max_pool2d avg_pool2d upsample_nearest2d _to_copy to""".split()
# the same but for what torch computes by other code, see Pointwise
_NEARLY = """gelu silu sigmoid mish elu softplus""".split()


def choose_layout(traced: Traced, exact: bool = True) -> None:
    """Put conversions where layouts meet.

    Args:
        traced: Its nodes have ``meta['rank']``.
        exact: Give the bits of contiguous memory, in which networks are trained; the results are contiguous then.
            False computes real-valued operators in channels-last memory too, and returns what comes out.
    """
    _Layout(traced.graph, exact).run()


class _Layout:
    def __init__(self, graph: fx.Graph, exact: bool) -> None:
        self.graph, self.exact = graph, exact
        self.last: set[fx.Node] = set()  # 4-d results in channels-last memory
        self.converted: dict[tuple[fx.Node, Any], fx.Node] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "call_function":
                self._place(node)
            elif node.op == "output" and self.exact:
                node.args = fx.node.map_arg(node.args, self._as_trained)

    def _place(self, node: fx.Node) -> None:
        if node.target in (CONV, CONV_BOTH):
            arguments = list(node.args)
            for index in IMAGES:
                if index < len(arguments) and isinstance(arguments[index], fx.Node):
                    arguments[index] = self._last(arguments[index])
            node.args = tuple(arguments)
            self.last.add(node)
        elif node.target is operator.getitem and node.args[0] in self.last and node.args[1] == 0:
            self.last.add(node)
        elif node.target == torch.ops.aten.conv2d.default:
            first = self.exact and not node.args[0].meta.get("trained_last")
            node.target = conv2d_exact if first else conv2d_last
            self.last.add(node)
        elif node.target is max_pool_affine:
            self.last.add(node)
        elif self._any_layout(node):
            images = [source for source in node.all_input_nodes if source.meta.get("rank") == 4]
            if any(source in self.last for source in images):
                node.args = fx.node.map_arg(node.args, lambda n, kept=images: self._last(n) if n in kept else n)
                if self.exact and _name(node) in _NEARLY and not node.meta.get("trained_last"):
                    node.target = Pointwise(node.target)
                node.meta["last"] = True
                self.last.add(node)
        elif self.exact:
            node.args = fx.node.map_arg(node.args, self._as_trained)

    def _any_layout(self, node: fx.Node) -> bool:
        if node.target is affine:
            return node.args[0].meta.get("rank") == 4
        name = _name(node)
        return name in _ANY or name in _NEARLY or (name == "cat" and node.args[1:2] == (1,))

    def _last(self, node: fx.Node) -> fx.Node:
        if node in self.last or node.meta.get("rank") != 4 or node.op == "get_attr":
            return node
        return self._converted(node, to_last)

    def _first(self, node: fx.Node) -> fx.Node:
        return self._converted(node, to_first) if node in self.last and node.meta.get("rank") == 4 else node

    def _as_trained(self, node: fx.Node) -> fx.Node:
        return self._last(node) if node.meta.get("trained_last") else self._first(node)

    def _converted(self, node: fx.Node, function: Any) -> fx.Node:
        key = (node, function)
        if key not in self.converted:
            with self.graph.inserting_after(node):
                new = self.graph.call_function(function, (node,))
            new.meta.update(rank=4, trained_last=node.meta.get("trained_last", False))
            if function is to_last:
                self.last.add(new)
            self.converted[key] = new
        return self.converted[key]


def _name(node: fx.Node) -> str:
    """Of an operator of ATen; empty for all others."""
    name = str(node.target)
    return name.split(".")[1] if name.startswith("aten.") else ""
