"""From a packed network, or a ``.rebnn`` file, to a program that runs without Python and torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.graph.network import GraphNetwork, flatten
from rebnn_mm.deploy.load import PackedClassifier
from rebnn_mm.deploy.targets.executorch.edge import edge_form
from rebnn_mm.deploy.targets.executorch.file import sealed
from rebnn_mm.deploy.targets.executorch.lowering import as_taken, check_installed, lower_methods
from rebnn_mm.deploy.targets.executorch.placement import Placement
from rebnn_mm.deploy.targets.executorch.program_card import left_out, program_card
from rebnn_mm.deploy.targets.executorch.sizes import Sizes
from rebnn_mm.deploy.targets.network import Chain, example_inputs, graphs_in_order, network_of
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import write_bytes


@dataclass(frozen=True)
class ExecutorchReport:
    """What an export did.

    Attributes:
        placement: Which engine runs which operators.
        inputs: Shapes of the inputs, method after method.
        size: Bytes of the file.
        memory: Bytes that the program plans for intermediate results.
        check: What the comparison with the packed network found, one line each; empty if there was none.
        sizes: Of the images, where the program takes several; ``memory`` is for the largest.
        left_out: What of the test pipeline the C++ library does not do.
    """

    placement: Placement
    inputs: tuple[tuple[int, ...], ...]
    size: int
    memory: int
    check: tuple[str, ...] = ()
    sizes: Sizes | None = None
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        shapes = ", ".join(str(shape) for shape in self.inputs)
        if self.sizes is not None:
            low, high = self.sizes.least, self.sizes.most
            shapes += f", images of {low[0]}x{low[1]} to {high[0]}x{high[1]}, multiples of {self.sizes.multiple}"
        sizes = f"inputs {shapes}; file {self.size / 1e6:.2f} MB, memory for results {self.memory / 1e6:.1f} MB"
        return "\n".join([str(self.placement), sizes, *self.check, *self.left_out])


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
    int8_linear: bool = False,
    calibrate: Sequence[Sequence[Tensor]] = (),
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
        int8_linear: Real-valued linear layers compute on integers of 8 bits, see
            :func:`rebnn_mm.deploy.targets.executorch.int8.with_int8_linears`.
        calibrate: Inputs of real data, by which layers that no 1-bit layer follows are rounded to 8 bits, see
            :func:`rebnn_mm.deploy.targets.executorch.int8.with_int8_rest`; none: no such rounding.

    Raises:
        MissingPackageError: ExecuTorch is not installed, or too new for this torch to run programs with ``verify``.
        UserError: A network or a size that cannot be lowered; a program that differs from the network.
    """
    check_installed()
    network = network_of(source, inputs)
    card = card or getattr(network, "card", None) or _card_of(source) or ModelCard()
    parts = graphs_in_order(network)
    given = [as_taken(x) for x in (example_inputs(parts[0].inputs, card, size, length) if inputs is None else inputs)]
    module = edge_module(parts, given)
    with torch.no_grad():
        results = flatten(module(*given))
    kind = "classifier" if isinstance(network, PackedClassifier) else "network"
    text = program_card(card, given, len(results), **{"kind": kind, **(about or {})})
    samples = [] if verify is False else [given, *noise_like(given, 7)] if verify is True else verify
    method = Method(module, given, Chain(parts), samples, kind == "classifier")
    calibrated = {"forward": calibrate} if calibrate else None
    report = write_program(path, {"forward": method}, text, allow_slow, int8_linear=int8_linear, calibrate=calibrated)
    return replace(report, left_out=left_out(card))


@dataclass(frozen=True)
class Method:
    """A function of a program.

    Attributes:
        module: In edge form.
        inputs: Of the sizes that it is for.
        network: What it is compared with.
        samples: Inputs to compare on, those of one size behind each other; none: no comparison.
        decides: The first result are class scores.
    """

    module: nn.Module
    inputs: Sequence[Tensor]
    network: nn.Module
    samples: Sequence[Sequence[Tensor]] = ()
    decides: bool = False


def write_program(
    path: str | Path,
    methods: Mapping[str, Method],
    text: str,
    allow_slow: bool = False,
    sizes: Sizes | None = None,
    int8_linear: bool = False,
    calibrate: Mapping[str, Sequence[Sequence[Tensor]]] | None = None,
) -> ExecutorchReport:
    """Lower methods, the first of them ``'forward'``, compare each with its network, and write the program.

    Args:
        path: The file to write.
        methods: By name.
        text: The program's card.
        allow_slow: As for :func:`export_executorch`.
        sizes: Of the images, where ``'forward'`` takes several.
        int8_linear: As for :func:`export_executorch`.
        calibrate: For each method what :func:`export_executorch` takes under this name.

    Raises:
        UserError: Both ways to round; a method that cannot be lowered, or that differs from its network.
    """
    from rebnn_mm.deploy.targets.executorch.verify import compare_program

    given = {name: (m.module, m.inputs) for name, m in methods.items()}
    lines: list[str] = []
    if calibrate:
        from rebnn_mm.deploy.targets.executorch.int8 import with_int8_rest

        if int8_linear:
            raise UserError("--int8-rest rounds linear layers, too: leave out --int8-linear")
        for name, samples in calibrate.items():
            module, inputs = given[name]
            module, rest = with_int8_rest(module, inputs, samples, sizes if name == "forward" else None)
            given[name] = module, inputs
            lines += rest.lines(name, len(samples))
    if int8_linear:
        from rebnn_mm.deploy.targets.executorch.int8 import with_int8_linears

        given = {
            name: (with_int8_linears(module, inputs, sizes if name == "forward" else None), inputs)
            for name, (module, inputs) in given.items()
        }
    program = lower_methods(given, text, allow_slow, sizes)
    data = sealed(program.data)
    lines += [
        line
        for name, m in methods.items()
        for _, samples in groupby(m.samples, lambda inputs: [x.shape for x in inputs])
        for line in compare_program(program.data, m.network, list(samples), m.decides, name)
    ]
    if calibrate or int8_linear:
        lines.append("  of methods in 8 bits: what rounding to these changes counts above as signs that turned")
    write_bytes(path, data)
    shapes = tuple(tuple(x.shape) for m in methods.values() for x in m.inputs)
    return ExecutorchReport(program.placement, shapes, len(data), program.memory, tuple(lines), sizes)


def edge_module(parts: Sequence[GraphNetwork], inputs: Sequence[Tensor], real: bool = True) -> nn.Module:
    """The edge form of networks that are called one after the other; options as for :func:`edge_form`."""
    values, modules = list(inputs), []
    for part in parts:
        modules.append(edge_form(part.traced(), values, real))
        with torch.no_grad():
            values = flatten(modules[-1](*values))
    return modules[0] if len(modules) == 1 else Chain(modules)


def _card_of(source: Any) -> ModelCard | None:
    return ModelCard.from_plain(read_file(source).info) if isinstance(source, (str, Path)) else None


def noise_like(inputs: Sequence[Tensor], number: int) -> list[list[Tensor]]:
    """More inputs of the same shapes."""
    generator = torch.Generator().manual_seed(1)

    def another(x: Tensor) -> Tensor:
        if x.is_floating_point():
            return as_taken(torch.randn(x.shape, generator=generator))
        return torch.randint(0, 2, x.shape, generator=generator).to(x.dtype)

    return [[another(x) for x in inputs] for _ in range(number)]
