"""A 1-bit operator's node in a graph: its arguments by name, so that passes can put steps into it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from rebnn_mm.deploy.layers import operators  # registers the operators
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import TENSORS

assert operators is not None
CONV, LINEAR = torch.ops.rebnn_mm.binary_conv2d.default, torch.ops.rebnn_mm.binary_linear.default
CONV_BOTH, LINEAR_BOTH = torch.ops.rebnn_mm.binary_conv2d_both.default, torch.ops.rebnn_mm.binary_linear_both.default
_BOTH = {CONV: CONV_BOTH, LINEAR: LINEAR_BOTH}
_SINGLE = {both: single for single, both in _BOTH.items()}

# of the operators; those that return both have no ``signs``
_ARGUMENTS = ("x", "bits", "geometry", "tensors", "names", "residual", "clamp", "residual_last", "signs")
IMAGES = tuple(_ARGUMENTS.index(name) for name in ("x", "residual"))  # places of what has the layout of an image


@dataclass(frozen=True)
class Unit:
    """The arguments of one operator; tensors are nodes.

    Attributes:
        target: ``CONV`` or ``LINEAR``.
        tensors: Of :data:`rebnn_mm.deploy.operation.steps.TENSORS`, those that are there.
        signs: Whether signs are returned, and ``floats`` whether the floats are.
    """

    target: Any
    x: fx.Node
    bits: fx.Node
    spec: ConvSpec
    tensors: dict[str, fx.Node]
    residual: fx.Node | None = None
    clamp: tuple[float, float] | None = None
    residual_last: bool = False
    signs: bool = False
    floats: bool = True

    @classmethod
    def of(cls, node: Any) -> Unit | None:
        """Read a node; None if it is another operator's."""
        if not isinstance(node, fx.Node) or node.target not in (*_BOTH, *_SINGLE):
            return None
        both = node.target in _SINGLE
        given = {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
        tensors = dict(zip(str(given["names"]).split(), given["tensors"], strict=True))
        clamp = given.get("clamp")
        return cls(
            _SINGLE.get(node.target, node.target),
            given["x"],
            given["bits"],
            ConvSpec.from_ints(given["geometry"]),
            tensors,
            given.get("residual"),
            None if clamp is None else (float(clamp[0]), float(clamp[1])),
            bool(given.get("residual_last", False)),
            both or bool(given.get("signs", False)),
            both or not given.get("signs", False),
        )

    @property
    def is_linear(self) -> bool:
        """Whether the channels are the last dimension."""
        return self.target == LINEAR

    def has(self, *names: str) -> bool:
        """Whether one of these steps is taken already."""
        return any(name in self.tensors for name in names)

    def with_tensors(self, **tensors: fx.Node) -> Unit:
        """The unit with more steps."""
        return replace(self, tensors={**self.tensors, **tensors})

    def call(self, graph: fx.Graph) -> fx.Node:
        """A new node at the graph's insertion point; with both signs and floats it returns (floats, signs)."""
        both = self.signs and self.floats
        tensors = {name: self.tensors[name] for name in TENSORS if name in self.tensors}
        args = [self.x, self.bits, self.spec.ints(), list(tensors.values()), " ".join(tensors), self.residual]
        args += [None if self.clamp is None else list(self.clamp), self.residual_last]
        return graph.call_function(
            _BOTH[self.target] if both else self.target, (*args, *([] if both else [self.signs]))
        )


def unit_fed_by(node: fx.Node, reader: Any) -> Unit | None:
    """The unit at ``reader`` if ``node`` is its input, and its shortcut is another one; else None."""
    unit = Unit.of(reader)
    return unit if unit is not None and unit.x is node and unit.residual is not node else None


def units(graph: fx.Graph) -> list[fx.Node]:
    """All nodes that :meth:`Unit.of` reads and that return one thing, in order."""
    return [node for node in graph.nodes if node.target in _BOTH]
