"""Parts of a model as graphs: which ones, what a file holds of them, and how they come back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from rebnn_mm.deploy.format import BinaryTensor
from rebnn_mm.deploy.graph.capture import Traced, capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.errors import UserError

Stored = dict[str, Tensor | BinaryTensor]


@dataclass(frozen=True)
class Part:
    """A module of a model that is to be stored as a graph.

    Attributes:
        name: Its dotted name; empty for the whole model.
        inputs: Tensors to call it with: a batch of at least two images, as sizes of one are taken for fixed.
        call: How to call it, ``call(module, *inputs)``; None is ``module(*inputs)``.
        any_size: As for :func:`rebnn_mm.deploy.graph.capture.capture`.
        whole: Set where the part is all that the file's model computes: ``'classifier'`` of images, or ``'network'``.
    """

    name: str
    inputs: Sequence[Tensor]
    call: Callable[..., Any] | None = None
    any_size: bool | None = None
    whole: str | None = None


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


def store_part(model: nn.Module, part: Part) -> StoredPart:
    """Capture and fuse one part of ``model``, which is in eval mode and is not changed.

    Raises:
        UserError: It cannot be captured, or calls an operator that files do not hold.
    """
    module = lower(copy.deepcopy(model.get_submodule(part.name)))
    traced = _captured(module, part, part.inputs)
    record = encode(traced)
    if any(len(x) > 1 and spec.shape[0] is not None for x, spec in zip(part.inputs, traced.inputs, strict=True)):
        # its code makes a Python number of the batch, as MMPretrain's Swin does
        traced = _captured(module, part, [x[:1] for x in part.inputs])
        record = dict(encode(traced), single=True)
        _check_single(record, traced, module, part)
    shapes = {_unit(node).packed.target: _weight_shape(_unit(node)) for node in traced.graph.nodes if Unit.of(node)}
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
    traced = capture(_called(module, part), inputs, part.any_size)
    if part.call is not None:
        traced = _renamed(traced, "module.")
    fuse(traced)
    return traced


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _check_single(record: dict[str, Any], traced: Traced, module: nn.Module, part: Part) -> None:
    """Raise UserError unless images one by one give what they give together."""
    with torch.no_grad():
        together = _tensors(_called(module, part)(*part.inputs))
    alone = _tensors(GraphNetwork(record, traced.tensors)(*part.inputs))
    for a, b in zip(together, alone, strict=True):
        # most values: the last digits of some may turn a sign
        if a.shape != b.shape or float((a - b).float().abs().median()) > 1e-4 * float(a.float().abs().max()):
            raise UserError(f"{type(module).__name__} gives other results for one image than for several together")


def find_inputs(model: nn.Module, names: Sequence[str], run: Callable[[nn.Module], Any]) -> list[Part]:
    """The parts of these names, called as they first are in ``run(model)``.

    Left out are those that it does not call, and those that it calls with more than tensors, in tuples or lists.
    """
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            calls.setdefault(name, (args, keywords))

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(remember(name), with_kwargs=True) for name in names]
    try:
        with torch.no_grad():
            run(model)
    finally:
        for hook in hooks:
            hook.remove()
    found = ((name, _called_with(*calls[name])) for name in names if name in calls)
    return [Part(name, given.inputs, given) for name, given in found if given is not None]


@dataclass(frozen=True)
class _Structure:
    """How a module was called: tensors, and the tuples and lists that they stood in."""

    inputs: tuple[Tensor, ...]
    form: Any

    def __call__(self, module: nn.Module, *inputs: Tensor) -> Any:
        return module(*tree_unflatten(inputs, self.form))


def _called_with(args: tuple[Any, ...], keywords: dict[str, Any]) -> _Structure | None:
    """None where not all arguments are tensors, as a packed part's must be."""
    values, form = tree_flatten(args, is_leaf=lambda value: not isinstance(value, (tuple, list)))
    if keywords or not all(isinstance(value, Tensor) for value in values):
        return None
    return _Structure(tuple(value.detach().clone() for value in values), form)


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
