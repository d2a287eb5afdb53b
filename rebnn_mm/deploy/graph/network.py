"""A graph that runs: a module with torch alone, whatever network it was captured from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from rebnn_mm.deploy.file.container import RebnnFileError
from rebnn_mm.deploy.graph.capture import InputSpec, Traced
from rebnn_mm.deploy.graph.direct import DIRECT
from rebnn_mm.deploy.graph.functions import full_precision
from rebnn_mm.deploy.graph.passes.grow import grow_concatenations
from rebnn_mm.deploy.graph.passes.layout import choose_layout
from rebnn_mm.deploy.graph.passes.prepare import prepare
from rebnn_mm.deploy.graph.passes.real import join_real
from rebnn_mm.deploy.graph.passes.siblings import fold_powers, merge_siblings
from rebnn_mm.deploy.graph.passes.thresholds import pass_thresholds
from rebnn_mm.deploy.graph.record import decode
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.deploy.layers.operators import binary_conv2d, binary_linear
from rebnn_mm.deploy.layers.plan import Conv2dPlan, LinearPlan
from rebnn_mm.deploy.layers.prepared import Sources, is_recorded
from rebnn_mm.deploy.operation.steps import sides_of
from rebnn_mm.errors import UserError, UserTypeError

# what operators of torch, and plans, say to arguments that do not fit: a file may hold anything
MALFORMED = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, OverflowError)


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
        self._prepared: tuple[Sources, _Program] | None = None
        try:
            self._program()
        except MALFORMED as error:
            raise RebnnFileError(f"the file's graph does not fit its tensors: {error}") from None

    def forward(self, *inputs: Any) -> Any:
        """Compute; nested tuples and lists of inputs are taken in order.

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
        program = _Program(self.arranged(recorded), prepared=False) if recorded else self._program()
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

    def _program(self) -> _Program:
        prepared = self._prepared
        if prepared is not None and prepared[0].are(self._buffers.values()):
            return prepared[1]
        sources = Sources(self._buffers.values())
        traced = self.arranged()
        grow_concatenations(traced)
        join_real(traced, self.exact)
        program = _Program(traced, prepared=True)
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
    """Tensors of nested tuples and lists, in order."""
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in flatten(value)]


def _is_single(record: Any, inputs: list[InputSpec]) -> bool:
    single = record.get("single", False)
    if single not in (True, False) or (single and not all(spec.shape[:1] == (1,) for spec in inputs)):
        raise RebnnFileError(f"the file's graph is malformed: single={single!r} for its inputs")
    return bool(single)


def _any_number(spec: InputSpec) -> InputSpec:
    return replace(spec, shape=(None, *spec.shape[1:]))


def _joined(results: list[Any]) -> Any:
    """Results of single images as those of a batch."""
    first = results[0]
    if isinstance(first, Tensor):
        return torch.cat(results)
    if isinstance(first, dict):
        return {key: _joined([result[key] for result in results]) for key in first}
    return type(first)(_joined(list(parts)) for parts in zip(*results, strict=True))


class _Step:
    """One call: where its arguments come from and where its result goes."""

    __slots__ = ("arguments", "done", "function", "keywords", "nested", "place", "sources")

    def __init__(self, node: fx.Node, places: dict[fx.Node, int], function: Callable[..., Any]) -> None:
        self.function = function
        self.place = places[node]
        self.done: list[int] = []
        positions = [i for i, value in enumerate(node.args) if isinstance(value, fx.Node)]
        self.sources = [(i, places[node.args[i]]) for i in positions]  # type: ignore[index]
        self.arguments = [None if i in positions else value for i, value in enumerate(node.args)]
        self.keywords = dict(node.kwargs)
        inner = [node.args[i] for i in range(len(node.args)) if i not in positions]
        self.nested = _has_nodes((inner, self.keywords))
        if self.nested:

            def place_of(source: fx.Node) -> Any:
                return _Place(places[source])

            self.arguments = [fx.node.map_arg(value, place_of) for value in node.args]
            self.keywords = {key: fx.node.map_arg(value, place_of) for key, value in node.kwargs.items()}

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def run(self, values: list[Any]) -> None:
        if self.nested:
            arguments = [_filled(value, values) for value in self.arguments]
            keywords = {key: _filled(value, values) for key, value in self.keywords.items()}
        else:
            arguments, keywords = self.arguments.copy(), self.keywords
            for position, source in self.sources:
                arguments[position] = values[source]
        values[self.place] = self.function(*arguments, **keywords)
        for place in self.done:
            values[place] = None


class _Place:
    """A place in the list of values, among arguments; no int, whose subclasses torch.compile does not build."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


def _filled(value: Any, values: list[Any]) -> Any:
    if isinstance(value, _Place):
        return values[value.index]
    if isinstance(value, (list, tuple)):
        return [_filled(item, values) for item in value]
    return value


def _has_nodes(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(value, lambda n: found.append(n))
    return bool(found)


class _Program:
    """The steps of a graph, its constants, and its 1-bit operators, ``prepared`` or as registered operators."""

    def __init__(self, traced: Traced, prepared: bool) -> None:
        calls = [node for node in traced.graph.nodes if node.op == "call_function"]
        constants = [node for node in traced.graph.nodes if node.op == "get_attr"]
        inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
        places = {node: index for index, node in enumerate([*inputs, *constants, *calls])}
        self._inputs = len(inputs)
        self._constants = [traced.tensors[node.target] for node in constants]
        self._calls = len(calls)
        self._steps = [_step(node, places, traced, prepared) for node in calls]
        (output,) = [node for node in traced.graph.nodes if node.op == "output"]
        self._output = _output_places(output.args[0], places)
        kept = set(range(len(inputs) + len(constants))) | {places[node] for node in output.all_input_nodes}
        last = {places[source]: index for index, node in enumerate(calls) for source in node.all_input_nodes}
        for place, index in last.items():
            if place not in kept:
                self._steps[index].done.append(place)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        values: list[Any] = [*inputs, *self._constants, *[None] * self._calls]
        step = None
        try:
            for step in self._steps:
                step.run(values)
        except MALFORMED as error:
            # inputs were checked: a value of a wrong type comes from the graph, one of a wrong size may be the user's
            users = isinstance(error, UserError) and not isinstance(error, UserTypeError)
            if users or any(map(is_recorded, inputs)):
                raise
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            line = str(error).strip().split("\n")[0] or type(error).__name__
            raise RebnnFileError(
                f"the graph cannot be computed for inputs of {shapes}: {step} says {line}; is an input too small, or "
                "the file from elsewhere?"
            ) from error
        return _result(self._output, values)


def _step(node: fx.Node, places: dict[fx.Node, int], traced: Traced, prepared: bool) -> _Step:
    if Unit.of(node) is not None:
        return _UnitStep(node, places, traced, prepared)
    return _Step(node, places, DIRECT.get(node.target, node.target) if prepared else node.target)  # type: ignore[arg-type]


class _UnitStep(_Step):
    """A 1-bit operator: a plan, made once; or the registered operator, for calls that are recorded."""

    __slots__ = ()

    def __init__(self, node: fx.Node, places: dict[fx.Node, int], traced: Traced, prepared: bool) -> None:
        unit = Unit.of(node)
        tensors = {name: traced.constant(tensor) for name, tensor in unit.tensors.items()}
        before, after = sides_of(tensors, unit.clamp, unit.residual_last, unit.signs, unit.floats)
        arguments = (traced.constant(unit.bits), unit.spec, before, after)
        if prepared:
            self.function = (LinearPlan if unit.is_linear else Conv2dPlan)(*arguments)
        else:
            operator = binary_linear if unit.is_linear else binary_conv2d
            self.function = lambda x, residual=None: operator(x, *arguments, residual)
        self.place, self.done = places[node], []
        self.sources = [(0, places[unit.x])] + ([] if unit.residual is None else [(1, places[unit.residual])])
        self.arguments, self.keywords, self.nested = [None] * len(self.sources), {}, False


def _output_places(value: Any, places: dict[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return _Place(places[value])
    if isinstance(value, dict):
        return {key: _output_places(item, places) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        # fx has a list class of its own
        return (tuple if isinstance(value, tuple) else list)(_output_places(item, places) for item in value)
    return value


def _result(value: Any, values: list[Any]) -> Any:
    if isinstance(value, _Place):
        return values[value.index]
    if isinstance(value, dict):
        return {key: _result(item, values) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_result(item, values) for item in value)
    return value
