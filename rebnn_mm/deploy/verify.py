"""Whether a packed model is the trained one: its 1-bit layers bit for bit, its real-valued parts up to rounding.

A network whose real-valued parts run the same code gives the same bits throughout, and nothing more is asked. Where a
run-time computes a real-valued part in another way (another memory layout, another kernel), results differ in their
last digits, and such a difference may turn the sign of a value near 0 in front of a later 1-bit layer, which then
shows in the outputs as more than rounding. So three things are asked of a model that differs:

1. Each 1-bit layer, given the trained model's input to it, gives the trained model's output, bit for bit; each part
   that is a graph, which has real-valued layers in it too, up to ``TOLERANCE``.
2. With every 1-bit part's input held to the trained model's, no sign can turn. What each part would have got instead,
   and every output, agree up to ``TOLERANCE`` of their largest value. Outputs that are chosen by value (boxes behind
   a non-maximum suppression) are exempt, and inputs of 1-bit parts may come in another order: a last digit decides
   an order or a tie.
3. How much each output differs when nothing is held is stated in the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.trial import tensors_of
from rebnn_mm.deploy.layers.modules import PackedLayer
from rebnn_mm.deploy.load import PackedClassifier
from rebnn_mm.errors import UserError, UserTypeError
from rebnn_mm.fast_path import no_fast_path
from rebnn_mm.progress import step

Forward = Callable[[nn.Module, Any], Any]
# Of an output's largest value. Float32 rounds at 6e-8; sums of thousands of terms in another order reach some 1e-6.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """How the packed model is compared with the trained one.

    Attributes:
        inputs: What ``forward`` takes, one at a time; use several shapes.
        forward: Runs the trained or the packed model; returns tensors, also in lists or dicts; default ``model(x)``.
        load: Reads a file; default: :func:`load_model`, into a copy of the trained model if need be.
        exact: Demand the same bits of every output, and not only what :mod:`rebnn_mm.deploy.verify` says.
        chosen: First parts of the names of outputs that are chosen by value (boxes, labels): a last digit decides
            their order and number, so they must agree with ``exact`` only.
    """

    inputs: Sequence[Any]
    forward: Forward | None = None
    load: Callable[[Path], nn.Module] | None = None
    exact: bool = False
    chosen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.inputs):
            raise UserError("Check(inputs=[]): give at least one input to compare on")


@dataclass(frozen=True)
class Difference:
    """An output of the packed model that is not the trained model's.

    Attributes:
        input: Number of the check's input.
        output: Its name: keys and positions in what ``forward`` returned, joined by dots.
        largest: Largest difference of a value; inf where shapes or types differ.
        relative: The same, relative to the output's largest value.
    """

    input: int
    output: str
    largest: float
    relative: float

    def __str__(self) -> str:
        if math.isinf(self.largest):
            return f"input {self.input}, output {self.output}, in shape, type or which values are finite"
        size = f"by up to {self.largest:.3g} ({self.relative:.2g} of its largest value)"
        return f"input {self.input}, output {self.output}, {size}"


def compare(trained: nn.Module, packed: nn.Module, check: Check, exact: bool) -> tuple[Difference, ...]:
    """The outputs in which ``packed`` differs, all of them allowed ones.

    Raises:
        UserError: One differs by more than is allowed.
    """
    differences: list[Difference] = []
    for index, x in enumerate(check.inputs):
        step(f"comparing with the trained model, input {index + 1} of {len(check.inputs)}")
        expected, found = run(trained, x, check), run(packed, x, check)
        if list(expected) != list(found):
            if exact or _dense(expected, check) != _dense(found, check):
                raise UserError(f"input {index}: {len(found)} output tensors, the trained model gives {len(expected)}")
        here = list(_differences(index, expected, found))
        if here and exact:
            raise _refusal(here[0], "" if here[0].relative > TOLERANCE else _HINT)
        if here:
            _check_parts(trained, packed, index, x, check, max(here, key=lambda one: one.relative))
        differences += here
    return tuple(differences)


def run(model: nn.Module, x: Any, check: Check) -> dict[str, Tensor]:
    """The outputs of ``model`` by name; torch's attentions compute as they were captured, and ``x`` stays as it is."""
    x = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, x)
    with torch.no_grad(), no_fast_path():
        if check.forward is not None:
            outputs = check.forward(model, x)
        else:
            outputs = model.logits(x) if isinstance(model, PackedClassifier) else model(x)
    return dict(_flatten(outputs, ""))


def _check_parts(trained: nn.Module, packed: nn.Module, index: int, x: Any, check: Check, first: Difference) -> None:
    """Raise UserError unless the 1-bit parts agree, and the rest up to rounding; ``first`` is what differs."""
    pairs = list(_pairs(trained, packed))
    if not pairs:  # a whole graph: there is nothing in it to hold
        if first.relative > TOLERANCE:
            raise _refusal(first, "")
        return
    inputs: dict[str, list[list[Tensor]]] = {name: [] for name, *_ in pairs}
    with _hooks() as hooks:
        for name, part, twin in pairs:
            hooks.append(part.register_forward_hook(_compare_on_same_input(name, twin, inputs[name])))
        expected = run(trained, x, check)
    with _hooks() as hooks:
        for name, _, twin in pairs:
            hooks.append(twin.register_forward_pre_hook(_hold(name, iter(inputs[name]))))
        found = run(packed, x, check)
    for difference in _differences(index, expected, found):
        if difference.output.split(".")[0] not in check.chosen and difference.relative > TOLERANCE:
            raise _refusal(difference, "")


def _pairs(trained: nn.Module, packed: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """(name, trained part, packed part) of every 1-bit part that both have under one name."""
    parts = dict(trained.named_modules())
    inside: set[nn.Module] = set()
    for name, twin in packed.named_modules():
        whole = isinstance(twin, GraphNetwork) and not name  # also holds real-valued operators: nothing to hold
        if isinstance(twin, (PackedLayer, GraphNetwork)) and twin not in inside and name in parts and not whole:
            inside.update(twin.modules())
            yield name, parts[name], twin


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    hooks: list[Any] = []
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()


def _compare_on_same_input(name: str, twin: nn.Module, inputs: list[list[Tensor]]) -> Callable[..., None]:
    """``inputs`` gets the tensors of each call; a neck's come in a tuple."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        inputs.append([x.clone() for x in tensors_of(args)])
        found = dict(_flatten(twin(*args), ""))
        allowed = TOLERANCE if isinstance(twin, GraphNetwork) else 0
        for difference in _differences(0, dict(_flatten(output, "")), found):
            if difference.relative <= allowed:
                continue
            raise UserError(
                f"the packed model differs from the trained one: the 1-bit part {name or 'as a whole'}, given the same "
                f"input, by up to {difference.largest:.3g}. {_ADVICE}"
            )

    return hook


def _hold(name: str, recorded: Iterator[list[Tensor]]) -> Callable[..., Any]:
    """Give a packed part the trained model's inputs; those of another shape come behind a choice and are left alone."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
        expected = next(recorded, None)
        values, form = tree_flatten(args)
        if expected is None or [x.shape for x in expected] != [getattr(x, "shape", None) for x in values]:
            return None
        for trained, own in zip(expected, values, strict=True):
            _, relative = _gap(trained, own)
            if relative > TOLERANCE:  # the same values in another order are no fault
                _, relative = _gap(trained.flatten().sort().values, own.flatten().sort().values)
            if relative > TOLERANCE:
                raise UserError(
                    f"the packed model differs from the trained one: real-valued parts in front of {name} by "
                    f"{relative:.2g} of the largest value, more than rounding does ({TOLERANCE:g}). {_ADVICE}"
                )
        # in the layout that the packed model uses here, so that what follows runs as it does without a hand on it
        return tree_unflatten(map(_laid_out, expected, values), form)

    return hook


def _laid_out(values: Tensor, like: Tensor) -> Tensor:
    return torch.empty_like(like).copy_(values)


def _dense(outputs: Mapping[str, Tensor], check: Check) -> list[str]:
    return [name for name in outputs if name.split(".")[0] not in check.chosen]


def _differences(index: int, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[Difference]:
    for name in [*expected, *(name for name in found if name not in expected)]:
        a, b = expected.get(name), found.get(name)
        largest, relative = (math.inf, math.inf) if a is None or b is None else _gap(a, b)
        if largest:
            yield Difference(index, name, largest, relative)


def _gap(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Largest difference of a value, alone and relative to the largest value; inf where that says nothing."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf, math.inf
    if torch.equal(a, b):
        return 0.0, 0.0
    if not a.is_floating_point():
        return float((a.double() - b.double()).abs().max()), math.inf
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(a[~finite].nan_to_num(0.0), b[~finite].nan_to_num(0.0)):
        return math.inf, math.inf
    if not finite.any():
        return 0.0, 0.0
    largest = float((a - b)[finite].abs().max())
    scale = float(a[finite].abs().max())
    return largest, (largest / scale if scale else math.inf) if largest else 0.0


_ADVICE = (
    "No file was written. Was a layer changed after training, or does a subclass compute something of its own? Set "
    "REBNN_MM_ISA=torch to see whether it is the kernel"
)
_HINT = (
    f" It is small enough to be rounding: without exact=True (--exact) up to {TOLERANCE:g} of an output's largest "
    "value is allowed where the 1-bit layers agree bit for bit."
)


def _refusal(difference: Difference, hint: str) -> UserError:
    return UserError(f"the packed model differs from the trained one: {difference}.{hint} {_ADVICE}")


def _flatten(outputs: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors and numbers in nested outputs with their names; a single one is number 0."""
    if isinstance(outputs, (Tensor, int, float)):
        yield name or "0", torch.as_tensor(outputs)
    elif outputs is None:
        return
    elif isinstance(outputs, (Mapping, list, tuple)):
        items = outputs.items() if isinstance(outputs, Mapping) else enumerate(outputs)
        for key, part in items:
            yield from _flatten(part, f"{name}.{key}" if name else str(key))
    else:
        raise UserTypeError(f"the model returns a {type(outputs).__name__}: let Check.forward return tensors")
