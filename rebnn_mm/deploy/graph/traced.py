"""A captured network: a graph of functional ATen operators, its constants, and what its inputs may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from rebnn_mm.errors import UserError


@dataclass(frozen=True)
class InputSpec:
    """One input tensor.

    Attributes:
        dtype: ``'float32'``, ``'int64'``, ...
        shape: For each dimension a fixed size, or None where any size from ``least`` to ``most`` will do.
        least: Smallest size of each dimension.
        most: Largest size of each dimension, None where there is none.
    """

    dtype: str
    shape: tuple[int | None, ...]
    least: tuple[int, ...]
    most: tuple[int | None, ...]

    def check(self, x: Tensor, name: str) -> None:
        """Raise UserError unless ``x`` is such a tensor."""
        if str(x.dtype).removeprefix("torch.") != self.dtype:
            raise UserError(f"{name} is {x.dtype}; the network takes {self.dtype}")
        bounds = [
            (least, most) if wanted is None else (wanted, wanted)
            for wanted, least, most in zip(self.shape, self.least, self.most, strict=True)
        ]
        fits = x.dim() == len(bounds) and all(
            least <= size and (most is None or size <= most)
            for size, (least, most) in zip(x.shape, bounds, strict=True)
        )
        if not fits:
            sizes = ", ".join(
                f">={least}" if most is None else str(least) if least == most else f"{least} to {most}"
                for least, most in bounds
            )
            raise UserError(f"{name} has the shape {tuple(x.shape)}; the network takes ({sizes})")


@dataclass
class Traced:
    """A captured network.

    Attributes:
        graph: Placeholders are the inputs; ``get_attr`` nodes name tensors of ``tensors``; the rest are calls of
            functional operators. The output is a tensor, or a nested tuple, list or dict of them.
        tensors: Constants by name; those of the module keep its state-dict names.
        inputs: What each placeholder takes.
    """

    graph: fx.Graph
    tensors: dict[str, Tensor]
    inputs: list[InputSpec] = field(default_factory=list)

    def constant(self, node: Any) -> Tensor | None:
        """The tensor behind a ``get_attr`` node; None for anything else."""
        return self.tensors[node.target] if isinstance(node, fx.Node) and node.op == "get_attr" else None

    def add_constant(self, name: str, value: Tensor) -> fx.Node:
        """A new ``get_attr`` node in front of all calls; ``name`` is made unique."""
        unique, number = name, 1
        while unique in self.tensors:
            unique, number = f"{name}.{number}", number + 1
        self.tensors[unique] = value
        first = next(node for node in self.graph.nodes if node.op != "placeholder")
        with self.graph.inserting_before(first):
            node = self.graph.create_node("get_attr", unique)
        node.meta["val"] = value
        return node

    def runnable(self) -> fx.GraphModule:
        """The graph as a module that checks nothing of its inputs."""
        named = {node.target: self.tensors[node.target] for node in self.graph.nodes if node.op == "get_attr"}
        graph = fx.Graph()  # a copy: one that belongs to a module looks for its constants there
        graph.output(graph.graph_copy(self.graph, {}))
        return fx.GraphModule(named, graph)

    def tidy(self) -> None:
        """Remove calls that nothing reads, and constants that nothing names."""
        self.graph.eliminate_dead_code()
        named = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in named}
