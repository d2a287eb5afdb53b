"""A graph that runs: a module with torch alone, whatever network it was captured from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.file.container import RebnnFileError
from rebnn_mm.deploy.graph.functions import full_precision
from rebnn_mm.deploy.graph.passes.grow import grow_concatenations
from rebnn_mm.deploy.graph.passes.layout import choose_layout
from rebnn_mm.deploy.graph.passes.prepare import prepare
from rebnn_mm.deploy.graph.passes.real import join_real
from rebnn_mm.deploy.graph.passes.siblings import fold_powers, merge_siblings
from rebnn_mm.deploy.graph.passes.thresholds import pass_thresholds
from rebnn_mm.deploy.graph.program import MALFORMED, Program
from rebnn_mm.deploy.graph.record import decode
from rebnn_mm.deploy.graph.traced import InputSpec, Traced
from rebnn_mm.deploy.layers.prepared import Sources, is_recorded
from rebnn_mm.errors import UserError


class GraphNetwork(nn.Module):
    """The network of a file's graph record: the captured inputs -> the captured outputs, on the CPU.

    Its tensors are buffers, and what is prepared of them is made again when one is another or has changed since, and
    in a process that got the module as a copy or pickled.

    Args:
        record: From :func:`rebnn_mm.deploy.graph.record.encode`.
        tensors: The file's, by name.
        exact: Give the trained network's bits; False lets real-valued layers take the faster memory layout and fold
            their norms (differences of some 1e-6 before a sign may turn that sign), and computes linear ones whose
            weights are in 8 bits on integers, where torch and the processor are fast at it (differences of some 1e-2).

    Attributes:
        inputs: What each input must be.
        single: Whether the graph is for one image: several are computed one by one.
        tensor_names: Names of the tensors that it was made of.

    Raises:
        RebnnFileError: The record is malformed or does not fit the tensors.
    """

    def __init__(self, record: dict[str, Any], tensors: dict[str, Tensor], exact: bool = True) -> None:
        super().__init__()
        self.exact = exact
        self._record = record
        traced = decode(record, tensors)
        self.single = _is_single(record, traced.inputs)
        self.inputs: list[InputSpec] = [_any_number(spec) for spec in traced.inputs] if self.single else traced.inputs
        self.tensor_names = tuple(traced.tensors)
        for index, name in enumerate(self.tensor_names):
            self.register_buffer(f"tensor_{index}", traced.tensors[name])
        self._prepared: tuple[Sources, Program] | None = None
        try:
            self._program()
        except MALFORMED as error:
            raise RebnnFileError(f"the file's graph does not fit its tensors: {error}") from None

    @property
    def image_channels(self) -> int | None:
        """Channels of the images that it takes; None if its first input is not (N, C, H, W) of a fixed C."""
        shape = self.inputs[0].shape
        return shape[1] if len(shape) == 4 else None

    def forward(self, *inputs: Any) -> Any:
        """Compute; nested tuples, lists and dicts of inputs are taken in order.

        Raises:
            UserError: An input of another type or shape.
        """
        inputs = tuple(flatten(inputs))
        if len(inputs) != len(self.inputs):
            raise TypeError(f"the network takes {len(self.inputs)} inputs, got {len(inputs)}")
        for index, (x, spec) in enumerate(zip(inputs, self.inputs, strict=True)):
            spec.check(x, f"input {index}")
        if self.single and len(inputs[0]) != 1:
            if len({len(x) for x in inputs}) > 1:
                raise UserError(f"inputs of {', '.join(str(len(x)) for x in inputs)} images: give as many of each")
            return _joined([self(*(x[i : i + 1] for x in inputs)) for i in range(len(inputs[0]))])
        recorded = any(map(is_recorded, inputs))
        program = Program(self.arranged(recorded), prepared=False) if recorded else self._program()
        # detached, not under no_grad: torch.export would put everything within that into a graph of its own
        with full_precision():
            return program(tuple(x.detach() for x in inputs))

    def traced(self) -> Traced:
        """The graph of the record with the tensors as they are now."""
        return decode(self._record, dict(zip(self.tensor_names, self._buffers.values(), strict=True)))

    def arranged(self, recorded: bool = False) -> Traced:
        """The same, prepared for running: constants computed, layouts chosen.

        Args:
            recorded: Leave out the passes that read values of constants: a call that is recorded has only their sizes.
                Weights in 8 bits become floats, see :func:`prepare`.
        """
        traced = self.traced()
        prepare(traced, self.exact, eight_bits=not recorded, check=not recorded)
        if not recorded:
            fold_powers(traced)
            merge_siblings(traced)
            pass_thresholds(traced, self.exact)
        choose_layout(traced, self.exact)
        return traced

    def _program(self) -> Program:
        prepared = self._prepared
        if prepared is not None and prepared[0].are(self._buffers.values()):
            return prepared[1]
        sources = Sources(self._buffers.values())
        traced = self.arranged()
        grow_concatenations(traced)
        join_real(traced, self.exact)
        program = Program(traced, prepared=True)
        self._prepared = sources, program
        return program

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}

    def extra_repr(self) -> str:
        """Numbers of operators."""
        names = [row[0] for row in self._record["nodes"]]
        binary = sum(name.startswith("rebnn.binary") for name in names)
        return f"{len(names)} operators, {binary} of them 1-bit"


def flatten(values: Any) -> list[Tensor]:
    """Tensors of nested tuples, lists and dicts, in order."""
    if isinstance(values, Tensor):
        return [values]
    values = values.values() if isinstance(values, dict) else values
    return [tensor for value in values for tensor in flatten(value)]


def _is_single(record: Any, inputs: list[InputSpec]) -> bool:
    single = record.get("single", False)
    if single not in (True, False) or (single and not all(spec.shape[:1] == (1,) for spec in inputs)):
        raise RebnnFileError(f"the file's graph is malformed: single={single!r} for its inputs")
    return bool(single)


def _any_number(spec: InputSpec) -> InputSpec:
    return replace(spec, shape=(None, *spec.shape[1:]))


def _joined(results: list[Any]) -> Any:
    """Results of single images as those of a batch; what is no tensor, a size or None, is that of the first."""
    first = results[0]
    if isinstance(first, Tensor):
        return torch.cat(results)
    if isinstance(first, dict):
        return {key: _joined([result[key] for result in results]) for key in first}
    if not isinstance(first, (list, tuple)):
        return first
    return type(first)(_joined(list(parts)) for parts in zip(*results, strict=True))
