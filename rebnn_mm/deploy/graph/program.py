"""The steps of a graph in a list, each with the places of its arguments: no look-ups by name while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from rebnn_mm.deploy.file.container import RebnnFileError
from rebnn_mm.deploy.graph.direct import DIRECT
from rebnn_mm.deploy.graph.guarded import GUARDED, SYMBOLS
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.deploy.layers.operators import binary_conv2d, binary_linear
from rebnn_mm.deploy.layers.plan import Conv2dPlan, LinearPlan
from rebnn_mm.deploy.layers.prepared import is_recorded
from rebnn_mm.deploy.operation.steps import sides_of
from rebnn_mm.errors import UserError, UserTypeError

# what operators of torch, and plans, say to arguments that do not fit: a file may hold anything
MALFORMED = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, MemoryError)


class Program:
    """The steps of a graph, its constants, and its 1-bit operators, ``prepared`` or as registered operators."""

    def __init__(self, traced: Traced, prepared: bool) -> None:
        calls = [node for node in traced.graph.nodes if node.op == "call_function"]
        constants = [node for node in traced.graph.nodes if node.op == "get_attr"]
        inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
        places = {node: index for index, node in enumerate([*inputs, *constants, *calls])}
        self._constants = [traced.tensors[node.target] for node in constants]
        self._calls = len(calls)
        self._steps = [_step(node, places, traced, prepared) for node in calls]
        (output,) = [node for node in traced.graph.nodes if node.op == "output"]
        self._output = _output_places(output.args[0], places)
        # a recorded call's tensors have no memory
        self._taken = frozenset(map(_memory, self._constants)) if prepared else None
        kept = set(range(len(inputs) + len(constants))) | {places[node] for node in output.all_input_nodes}
        last = {places[source]: index for index, node in enumerate(calls) for source in node.all_input_nodes}
        for place, index in last.items():
            if place not in kept:
                self._steps[index].done.append(place)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        """Run all steps.

        Raises:
            RebnnFileError: A step cannot be computed.
        """
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
        return _result(self._output, values, None if self._taken is None else {*self._taken, *map(_memory, inputs)})


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


def _step(node: fx.Node, places: dict[fx.Node, int], traced: Traced, prepared: bool) -> _Step:
    if Unit.of(node) is not None:
        return _UnitStep(node, places, traced, prepared)
    target: Any = node.target
    function = GUARDED.get(target, DIRECT.get(target, target)) if prepared else SYMBOLS.get(target, target)
    return _Step(node, places, function)


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


def _result(value: Any, values: list[Any], taken: set[int] | None) -> Any:
    """What is returned, in memory that is the caller's to write to.

    A graph has no copies (:mod:`rebnn_mm.deploy.graph.passes.simplify`), so an output may be a constant or an input.

    Args:
        value: Places of outputs in ``values``, nested.
        values: Of all steps.
        taken: Memory of constants and inputs; that of outputs is added. None: of a recorded call, whose outputs stay.
    """
    if isinstance(value, _Place):
        x = values[value.index]
        if taken is not None and isinstance(x, Tensor):
            x = x.clone() if _memory(x) in taken else x
            taken.add(_memory(x))
        return x
    if isinstance(value, dict):
        return {key: _result(item, values, taken) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_result(item, values, taken) for item in value)
    return value


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
