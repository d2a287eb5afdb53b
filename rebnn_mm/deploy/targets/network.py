"""What the engines' exporters start from: the network of a file or of a trained model, and inputs of its shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.copying import copy_model
from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import PackedFile, RebnnFileError, read_file
from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork, flatten
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.graph.traced import InputSpec
from rebnn_mm.deploy.load import PackedClassifier, build_network
from rebnn_mm.deploy.model.weights import Weights, graphs_of
from rebnn_mm.errors import UserError

Network = PackedClassifier | GraphNetwork | list[GraphNetwork]
"""A whole network, or parts that are called one after the other."""

_LARGEST = 8192  # pixels along one side


def network_of(source: str | Path | nn.Module, inputs: Sequence[Tensor] | None = None) -> Network:
    """The network of a file or a model with its norms folded; of a detector's file backbone and neck, as a list.

    Args:
        source: A ``.rebnn`` file; what :func:`rebnn_mm.deploy.load_model` made of one; or a trained model with 1-bit
            layers.
        inputs: What a trained model is called with; its sizes are the network's.

    Raises:
        MissingFileError: ``source`` is no file.
        RebnnFileError: It is damaged, or holds no graph.
        UserError: A trained model without ``inputs``, or one that cannot be captured.
    """
    if isinstance(source, (str, Path)):
        file = read_file(source)
        if "whole" in file.info:
            return build_network(file, exact=False)
        graphs = _graphs_in(file, source)
        names = [name for name in ("backbone", "neck") if name in graphs] or list(graphs)[:1]
        return [Weights(file).at(name).network(graphs[name], exact=False) for name in names]
    if isinstance(source, (PackedClassifier, GraphNetwork)):
        return source
    if inputs is None:
        raise UserError(f"a {type(source).__name__} can be exported with inputs=[...], or from its .rebnn file")
    traced = fuse(capture(lower(copy_model(source)), inputs, any_size=False))
    return GraphNetwork(encode(traced), traced.tensors, exact=False)


def chosen_network(path: str | Path, part: str | None) -> PackedClassifier | GraphNetwork:
    """The whole network of a file, or one part of it, with the trained network's bits.

    Raises:
        MissingFileError: ``path`` is no file.
        RebnnFileError: It is damaged, or holds no graph.
        UserError: A part that it does not have, or none of a file that is no graph as a whole.
    """
    file = read_file(path)
    graphs = _graphs_in(file, path)
    if part is None and "whole" in file.info:
        return build_network(file)
    if part is None:
        raise UserError(
            f"{path} is no graph as a whole: name one of its parts, {' or '.join(map(repr, graphs))}, with "
            "--part; --part boxes is a detector whole"
        )
    if part not in graphs:
        known = "it is one whole graph: leave the part out" if "" in graphs else f"one of {[*graphs]}"
        raise UserError(f"part={part!r} is no part of {path}: {known}")
    return Weights(file).at(part).network(graphs[part], exact=True)


def _graphs_in(file: PackedFile, path: str | Path) -> dict[str, Any]:
    graphs = graphs_of(file)
    if not graphs:
        raise RebnnFileError(f"{path} holds no graph, its layers are packed one by one: this export needs a graph")
    return graphs


def graphs_in_order(network: Network) -> list[GraphNetwork]:
    """The graphs of a network, each called with what the one before returns."""
    if isinstance(network, list):
        return network
    return [network.network if isinstance(network, PackedClassifier) else network]


class Chain(nn.Module):
    """Networks one after the other, each called with the tensors that the one before returns."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs: Any) -> Any:
        """What the last one returns."""
        values: Any = inputs
        for part in self.parts:
            values = part(*flatten(values))
        return values


def example_inputs(
    specs: Sequence[InputSpec], card: ModelCard, size: tuple[int, int] | None, length: int | None = None
) -> list[Tensor]:
    """Noise of a network's shapes, a batch of one; integers are 0 and 1, tokens and masks of any text network.

    Args:
        specs: What the network takes.
        card: Of its file; knows the size of images as a rule.
        size: (H, W) of images, instead of the card's.
        length: Of sequences of integers.

    Raises:
        UserError: A size that is neither given nor known, or not the network's.
    """
    generator = torch.Generator().manual_seed(0)
    size = size or (card.preprocessing.size if card.preprocessing else None)
    if size is not None and (len(size) != 2 or not all(type(n) is int and 0 < n <= _LARGEST for n in size)):
        raise UserError(f"size={size}: height and width, 1 to {_LARGEST} pixels")
    inputs = []
    for spec in specs:
        shape: list[int | None] = [1, *spec.shape[1:]]
        if len(shape) == 4 and size is not None:
            shape[2:] = size
        elif len(shape) == 2 and length is not None and spec.dtype == "int64":
            shape[1] = length
        if None in shape:
            what = "the images' size: size=(H, W)" if len(shape) == 4 else "the length of sequences: length=N"
            raise UserError(f"the network takes any size and its file names none: give {what}")
        dtype = getattr(torch, spec.dtype)
        if dtype.is_floating_point:
            x = torch.randn([n or 1 for n in shape], generator=generator)
        else:
            x = torch.randint(0, 2, [n or 1 for n in shape], generator=generator).to(dtype)
        spec.check(x, "an input of this size" if size is None else f"an input of size={tuple(size)}")
        inputs.append(x)
    return inputs
