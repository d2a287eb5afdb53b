"""What the sweep calls of this package, one function each: only these follow a change of its interface."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sweep_inputs import Inputs
from torch import Tensor, nn

ROUNDS = 9


def make_binary(model: nn.Module, rule: dict[str, Any]) -> Any:
    """Make ``model`` 1-bit by the rule with these arguments; the report has ``replaced`` and ``kept``."""
    from rebnn_mm.convert import binarize

    return binarize(model, **rule)


def twin(model: nn.Module) -> nn.Module:
    """A copy of a 1-bit model with plain layers in their place."""
    from rebnn_mm.workflows.benchmark import real_twin

    return real_twin(model)


def binary_layers(model: nn.Module) -> dict[str, Any]:
    """Layers with 1-bit weights by name."""
    from rebnn_mm.layers import binary_layers

    return binary_layers(model)


def export(model: nn.Module, path: Path, picture: Tensor, inputs: Inputs) -> dict[str, Any]:
    """Write ``path``, with graphs in it where the model can be captured.

    Returns:
        ``difference``: what is wrong with the packed model; None if it equals the trained one, or does up to rounding;
        ``rounding``: the largest difference then, of an output's largest value; ``graphs``: names of the parts that
        the file holds as graphs, ``"all"`` for the whole model; ``layerwise``: name of each other part -> why not.
    """
    from rebnn_mm.deploy import Check, export_model
    from rebnn_mm.errors import UserError

    parts = inputs.graphs(model)
    check = Check([picture], inputs.forward)
    found: dict[str, Any] = dict(difference=None)
    try:
        report = export_model(model, path, check=check, parts=parts)
    except UserError as error:
        if "differs" not in str(error):
            raise
        report = export_model(model, path, parts=parts)
        difference = str(error).split(". No file")[0]
        found["difference"] = difference.removeprefix("the packed model differs from the trained one: ")
    found["rounding"] = max((one.relative for one in report.differences), default=0.0)
    notes = (note.split(" is packed layer by layer: ") for note in report.graphs)
    found["layerwise"] = {note[0].replace("the model", "all"): note[1] for note in notes if len(note) > 1}
    graphs = (note.partition(": a graph of ") for note in report.graphs)
    found["graphs"] = [name.replace("the whole model", "all") for name, graph, _ in graphs if graph]
    return found


def export_unchecked(model: nn.Module, path: Path, inputs: Inputs) -> None:
    """Write ``path`` for images of ``inputs.size``, which may be too large to compare on."""
    from rebnn_mm.deploy import export_model

    export_model(model, path, parts=inputs.graphs(model))


def takes_size(packed: nn.Module, size: int) -> bool:
    """Whether a loaded model takes square images of ``size``: a graph of attention is for one size."""
    from rebnn_mm.deploy.graph.network import GraphNetwork

    return not isinstance(packed, GraphNetwork) or packed.inputs[0].shape[-1] in (None, size)


def load(path: Path, model: nn.Module) -> nn.Module:
    """The packed model of the file: a graph where it holds the whole model as one."""
    from rebnn_mm.copying import copy_model
    from rebnn_mm.deploy import load_model
    from rebnn_mm.deploy.file.container import read_file

    return load_model(path) if "whole" in read_file(path).info else load_model(path, model=copy_model(model))


def binary_share(model: nn.Module, forward: Callable[[nn.Module], Any]) -> float:
    """Share of multiply-accumulates of convolutions and linear layers with both sides 1-bit."""
    from rebnn_mm.analysis.opcount import count_model

    found = count_model(model, forward)
    return found.bops / max(1, found.bops + found.flops)


def in_turn(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Medians in milliseconds of calls made in turn, and of the rounds' ratios of the second to the first."""
    from rebnn_mm.kept_memory import keep_freed_memory
    from rebnn_mm.workflows.timing import candidate

    keep_freed_memory()
    timed = {name: candidate(call, threads=1, clock="cpu") for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for one in timed.values():
            one(1)
        for _ in range(ROUNDS):
            for name, one in timed.items():
                times[name].append(one(1))
    first, second = times.values()
    ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
    return dict(ratio=ratio, **{name: statistics.median(values) for name, values in times.items()})
