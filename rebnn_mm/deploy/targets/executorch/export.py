"""From a packed network, or a ``.rebnn`` file, to a program that runs without Python and torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.copying import copy_model
from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import PackedFile, RebnnFileError, read_file
from rebnn_mm.deploy.graph.capture import InputSpec, capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork, flatten
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.load import PackedClassifier, build_network, graphs_of
from rebnn_mm.deploy.model.weights import Weights
from rebnn_mm.deploy.targets.executorch.edge import edge_form
from rebnn_mm.deploy.targets.executorch.file import sealed
from rebnn_mm.deploy.targets.executorch.lowering import as_taken, check_installed, lower_module
from rebnn_mm.deploy.targets.executorch.placement import Placement
from rebnn_mm.deploy.targets.executorch.program_card import program_card
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import write_bytes

_LARGEST = 8192  # pixels along one side


@dataclass(frozen=True)
class ExecutorchReport:
    """What an export did.

    Attributes:
        placement: Which engine runs which operators.
        inputs: Shapes of the inputs.
        size: Bytes of the file.
        memory: Bytes that the program plans for intermediate results.
        check: What the comparison with the packed network found, one line each; empty if there was none.
    """

    placement: Placement
    inputs: tuple[tuple[int, ...], ...]
    size: int
    memory: int
    check: tuple[str, ...] = ()

    def __str__(self) -> str:
        shapes = ", ".join(str(shape) for shape in self.inputs)
        sizes = f"inputs {shapes}; file {self.size / 1e6:.2f} MB, memory for results {self.memory / 1e6:.1f} MB"
        return "\n".join([str(self.placement), sizes, *self.check])


def export_executorch(
    source: str | Path | nn.Module,
    path: str | Path,
    size: tuple[int, int] | None = None,
    inputs: Sequence[Tensor] | None = None,
    card: ModelCard | None = None,
    verify: bool | Sequence[Sequence[Tensor]] = True,
    allow_slow: bool = False,
    length: int | None = None,
    about: dict[str, Any] | None = None,
) -> ExecutorchReport:
    """Write a network as an ExecuTorch program for inputs of one size, a batch of one.

    A classifier's ``forward`` takes normalized images and gives logits; the program's card says how images become
    that. Of a detector's file, backbone and neck are written: images -> feature maps.

    Args:
        source: A ``.rebnn`` file; what :func:`rebnn_mm.deploy.load_model` made of one; or a trained model with 1-bit
            layers, with ``inputs``.
        path: The file to write, usually ``*.pte``.
        size: (H, W) of the images; default: the size in the card, else that of ``inputs``.
        inputs: Inputs of the network, normalized, a batch of one each; their sizes are the program's. Their values
            are compared on, if ``verify``.
        card: Class names and preprocessing; default: those of the file.
        verify: Run the program and compare it with the packed network, on noise or, for a list of inputs, on these.
        allow_slow: Write also what leaves real-valued products to the portable kernels.
        length: Length of sequences of integers.
        about: More for the program's card, see :func:`program_card`.

    Raises:
        MissingPackageError: ExecuTorch is not installed, or too new for this torch to run programs with ``verify``.
        UserError: A network or a size that cannot be lowered; a program that differs from the network.
    """
    check_installed()
    network = network_of(source, inputs)
    card = card or getattr(network, "card", None) or _card_of(source) or ModelCard()
    parts = _parts_of(network)
    given = [as_taken(x) for x in inputs] if inputs is not None else example_inputs(parts[0].inputs, card, size, length)
    module = edge_module(parts, given)
    with torch.no_grad():
        results = flatten(module(*given))
    kind = "classifier" if isinstance(network, PackedClassifier) else "network"
    text = program_card(card, given, len(results), **{"kind": kind, **(about or {})})
    program = lower_module(module, given, text, allow_slow)
    data = sealed(program.data)
    lines: tuple[str, ...] = ()
    if verify is not False:
        from rebnn_mm.deploy.targets.executorch.verify import compare_program

        samples = [given, *noise_like(given, 7)] if verify is True else verify
        lines = compare_program(program.data, _Chain(parts), samples, kind == "classifier")
    write_bytes(path, data)
    shapes = tuple(tuple(x.shape) for x in given)
    return ExecutorchReport(program.placement, shapes, len(data), program.memory, lines)


def _parts_of(network: PackedClassifier | GraphNetwork | list[GraphNetwork]) -> list[GraphNetwork]:
    if isinstance(network, list):
        return network
    return [network.network if isinstance(network, PackedClassifier) else network]


class _Chain(nn.Module):
    """Networks one after the other."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs: Any) -> Any:
        values: Any = inputs
        for part in self.parts:
            values = part(*flatten(values))
        return values


def edge_module(parts: Sequence[GraphNetwork], inputs: Sequence[Tensor], real: bool = True) -> nn.Module:
    """The edge form of networks that are called one after the other; ``real`` as for :func:`edge_form`."""
    values, modules = list(inputs), []
    for part in parts:
        modules.append(edge_form(part.traced(), values, real))
        with torch.no_grad():
            values = flatten(modules[-1](*values))
    return modules[0] if len(modules) == 1 else _Chain(modules)


def network_of(
    source: str | Path | nn.Module, inputs: Sequence[Tensor] | None
) -> PackedClassifier | GraphNetwork | list[GraphNetwork]:
    """The network behind what :func:`export_executorch` takes; a list if a file holds only parts, to be chained."""
    if isinstance(source, (str, Path)):
        return _of_file(read_file(source), source)
    if isinstance(source, (PackedClassifier, GraphNetwork)):
        return source
    if inputs is None:
        raise UserError(f"a {type(source).__name__} can be exported with inputs=[...], or from its .rebnn file")
    model = lower(copy_model(source))
    traced = fuse(capture(model, inputs, any_size=False))
    return GraphNetwork(encode(traced), traced.tensors, exact=False)


def _of_file(file: PackedFile, path: str | Path) -> PackedClassifier | GraphNetwork | list[GraphNetwork]:
    if "whole" in file.info:
        return build_network(file, exact=False)
    graphs = graphs_of(file)
    if not graphs:
        raise RebnnFileError(f"{path} holds no graph, its layers are packed one by one: ExecuTorch needs a graph")
    names = [name for name in ("backbone", "neck") if name in graphs] or list(graphs)[:1]
    return [Weights(file).at(name).network(graphs[name], exact=False) for name in names]


def _card_of(source: Any) -> ModelCard | None:
    return ModelCard.from_plain(read_file(source).info) if isinstance(source, (str, Path)) else None


def example_inputs(
    specs: Sequence[InputSpec], card: ModelCard, size: tuple[int, int] | None, length: int | None = None
) -> list[Tensor]:
    """Noise of the program's shapes; integers are 0 and 1, which are tokens and masks of any text network.

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
        inputs.append(as_taken(x))
    return inputs


def noise_like(inputs: Sequence[Tensor], number: int) -> list[list[Tensor]]:
    """More inputs of the same shapes."""
    generator = torch.Generator().manual_seed(1)

    def another(x: Tensor) -> Tensor:
        if x.is_floating_point():
            return as_taken(torch.randn(x.shape, generator=generator))
        return torch.randint(0, 2, x.shape, generator=generator).to(x.dtype)

    return [[another(x) for x in inputs] for _ in range(number)]
