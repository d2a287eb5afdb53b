"""Parts of a model as graphs: which ones, what a file holds of them, and how they come back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from rebnn_mm.deploy.file.tensors import BinaryTensor, stored_type
from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.trial import alike, tensors_of
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.errors import UserError

Run = Callable[[nn.Module], Any]
Stored = dict[str, Tensor | BinaryTensor]
Shapes = tuple[tuple[int, ...], ...]  # of the tensors of a call


@dataclass(frozen=True)
class Part:
    """A module of a model that is to be stored as a graph.

    Attributes:
        name: Its dotted name; empty for the whole model. An ``nn.ModuleList`` stands for the chain of its modules.
        inputs: Tensors to call it with: a batch of at least two images, as sizes of one are taken for fixed.
        call: How to call it, ``call(module, *inputs)``; None is ``module(*inputs)``.
        any_size: As for :func:`rebnn_mm.deploy.graph.capture.capture`.
        open_sizes: Likewise.
        within: Gives smaller parts, to be taken where this one cannot be stored.
        refused: Why it is known beforehand that it cannot be stored; it has no inputs then.
        whole: Set where the part is all that the file's model computes: ``'classifier'`` of images, or ``'network'``.
    """

    name: str
    inputs: Sequence[Tensor]
    call: Callable[..., Any] | None = None
    any_size: bool | None = None
    open_sizes: Sequence[Collection[int]] | None = None
    whole: str | None = None
    within: Callable[[], Sequence[Part]] | None = None
    refused: str | None = None


@dataclass(frozen=True)
class StoredPart:
    """A part as a file holds it.

    Attributes:
        name, whole: As of :class:`Part`.
        record: Its graph, as plain values.
        tensors: By their names within the part.
    """

    name: str
    record: dict[str, Any]
    tensors: Stored
    whole: str | None = None

    def __str__(self) -> str:
        operators = [row[0] for row in self.record["nodes"]]
        binary = sum(name.startswith("rebnn.binary") for name in operators)
        return f"{self.name or 'the whole model'}: a graph of {len(operators)} operators, {binary} of them 1-bit"


class _Called(nn.Module):
    """A module under another way to call it."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(self.module, *inputs)

    def _get_name(self) -> str:
        return type(self.module).__name__  # in messages


def store_part(model: nn.Module, part: Part) -> StoredPart:
    """Capture and fuse one part of ``model``, which is in eval mode and is not changed.

    Raises:
        UserError: It cannot be captured, or calls an operator that files do not hold.
    """
    if part.refused:
        raise UserError(part.refused)
    module = lower(joined(copy.deepcopy(model.get_submodule(part.name))))
    traced = _captured(module, part, part.inputs)
    _store_constants(traced)
    record = encode(traced)
    if any(len(x) > 1 and spec.shape[0] is not None for x, spec in zip(part.inputs, traced.inputs, strict=True)):
        # its code makes a Python number of the batch, as MMPretrain's Swin does
        traced = _captured(module, part, [x[:1] for x in part.inputs])
        _store_constants(traced)
        record = dict(encode(traced), single=True)
        _check_single(record, traced, module, part)
    shapes = {_unit(node).bits.target: _weight_shape(_unit(node)) for node in traced.graph.nodes if Unit.of(node)}
    tensors: Stored = {
        name: BinaryTensor(tensor, shapes[name]) if name in shapes else tensor
        for name, tensor in traced.tensors.items()
    }
    wrong = [name for name, tensor in traced.tensors.items() if tensor.dtype == torch.float64]
    if wrong:
        raise UserError(f"{wrong[0]} is float64: call model.float() first, the run-time computes in float32")
    return StoredPart(part.name, record, tensors, part.whole)


def _called(module: nn.Module, part: Part) -> nn.Module:
    return module if part.call is None else _Called(module, part.call)


def _captured(module: nn.Module, part: Part, inputs: Sequence[Tensor]) -> Traced:
    """The fused graph of a lowered module, called with ``inputs``."""
    traced = capture(_called(module, part), inputs, part.any_size, part.open_sizes)
    if part.call is not None:
        traced = _renamed(traced, "module.")
    fuse(traced)
    return traced


def _store_constants(traced: Traced) -> None:
    """Exchange constants of types that files do not hold for wider ones, and cast them back where they are read."""
    for node in [node for node in traced.graph.nodes if node.op == "get_attr"]:
        tensor = traced.tensors[node.target]
        wider = stored_type(tensor.dtype)
        if wider == tensor.dtype:
            continue
        with traced.graph.inserting_after(node):
            cast = traced.graph.call_function(torch.ops.aten.to.dtype, (node, tensor.dtype))
        cast.meta["val"] = tensor
        node.replace_all_uses_with(cast, delete_user_cb=lambda user, cast=cast: user is not cast)
        traced.tensors[node.target] = node.meta["val"] = tensor.to(wider)


def _check_single(record: dict[str, Any], traced: Traced, module: nn.Module, part: Part) -> None:
    """Raise UserError unless images one by one give what they give together."""
    with torch.no_grad():
        together = tensors_of(_called(module, part)(*part.inputs))
    if not alike(together, tensors_of(GraphNetwork(record, traced.tensors)(*part.inputs))):
        raise UserError(f"{type(module).__name__} gives other results for one image than for several together")


def find_inputs(model: nn.Module, names: Sequence[str], *runs: Run) -> list[Part]:
    """The parts of these names, called as they first are in the first of ``runs``.

    Left out are those that it does not call, those that it calls with more than tensors, in tuples or lists, and those
    that it calls with tensors of other numbers of dimensions at times. A size of one is taken for fixed, so that a run
    gives the inputs in which no size that changes is one.

    Args:
        model: The model.
        names: Modules of it.
        runs: Each calls the model, ``run(model)``, with inputs of other sizes: what differs in size, between the calls
            of a run, too, is left open.
    """
    first, *others = [_calls(model, names, run) for run in runs]
    found = []
    for name, (call, shapes) in first.items():
        again = [other[name] for other in others if name in other]
        samples = [call, *(sample for sample, _ in again)]
        shapes = [*shapes, *(more for _, own in again for more in own)]
        if len({forms_of(sizes) for sizes in shapes}) > 1:
            continue
        places = _differing(shapes) if others else None
        for sample in samples:
            if all(x.shape[place] > 1 for x, own in zip(sample.inputs, places or (), strict=False) for place in own):
                found.append(Part(name, sample.inputs, sample, open_sizes=places))
                break
    return found


def forms_of(shapes: Shapes) -> tuple[int, ...]:
    """Of the inputs of a call, the numbers of dimensions: a graph is for one such form."""
    return tuple(map(len, shapes))


def _calls(model: nn.Module, names: Sequence[str], run: Run) -> dict[str, tuple[_Structure, list[Shapes]]]:
    """How each module is called first, and the shapes of all its calls, in the order of ``names``."""
    calls: dict[str, _Structure | None] = {}
    shapes: dict[str, list[Shapes]] = {name: [] for name in names}

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if name not in calls:
                calls[name] = called_with(args, keywords)
            shapes[name].append(tuple(tuple(x.shape) for x in tensors_of(args)))

        return hook

    firsts = [(name, first_of(model.get_submodule(name))) for name in names]
    hooks = [first.register_forward_pre_hook(remember(name), with_kwargs=True) for name, first in firsts]
    try:
        with torch.no_grad():
            run(model)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (call, shapes[name]) for name in names if (call := calls.get(name)) is not None}


def _differing(calls: Sequence[Shapes]) -> list[set[int]]:
    """For each input of the first call the dimensions that have other sizes in another one."""
    call, *others = calls
    places: list[set[int]] = [set() for _ in call]
    for other in others:
        for found, x, y in zip(places, call, other, strict=True):
            found.update(place for place in range(len(x)) if x[place] != y[place])
    return places


@dataclass(frozen=True)
class _Structure:
    """How a module was called: tensors, and the tuples and lists that they stood in."""

    inputs: tuple[Tensor, ...]
    form: Any

    def __call__(self, module: nn.Module, *inputs: Tensor) -> Any:
        """Call ``module`` so again, with other tensors."""
        return module(*tree_unflatten(inputs, self.form))


def called_with(args: tuple[Any, ...], keywords: dict[str, Any]) -> _Structure | None:
    """How to call a module again; None where not all arguments are tensors, as a packed part's must be."""
    if not is_called_with_tensors(args, keywords):
        return None
    values, form = tree_flatten(args)
    return _Structure(tuple(value.detach().clone() for value in values), form)


def is_called_with_tensors(args: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Whether the arguments of a call are tensors, or tuples and lists of them."""
    values = tree_leaves(args, is_leaf=lambda value: not isinstance(value, (tuple, list)))
    return not keywords and bool(values) and all(isinstance(value, Tensor) for value in values)


def first_of(module: nn.Module) -> nn.Module:
    """What is called first of a part: of a list of modules, which is a part if they are a chain, its first."""
    return module[0] if isinstance(module, nn.ModuleList) else module


def joined(module: nn.Module) -> nn.Module:
    """A part as one module: of a list of modules the chain."""
    return nn.Sequential(*module) if isinstance(module, nn.ModuleList) else module


def put_part(model: nn.Module, name: str, part: nn.Module) -> None:
    """Put ``part`` in the place of the module ``name``; a chain stays a list, of one."""
    before = model.get_submodule(name)
    model.set_submodule(name, nn.ModuleList([part]) if isinstance(before, nn.ModuleList) else part)


def _renamed(traced: Traced, prefix: str) -> Traced:
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            node.target = str(node.target).removeprefix(prefix)
    return replace(traced, tensors={name.removeprefix(prefix): tensor for name, tensor in traced.tensors.items()})


def _unit(node: Any) -> Unit:
    unit = Unit.of(node)
    assert unit is not None
    return unit


def _weight_shape(unit: Unit) -> tuple[int, ...]:
    shape = unit.spec.weight_shape
    return shape[:2] if unit.is_linear else shape
