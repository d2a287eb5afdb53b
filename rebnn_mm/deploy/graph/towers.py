"""Which modules of a model can be graphs while its own code keeps the glue: the towers of a detector's heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rebnn_mm.deploy.graph.parts import Part, Run, find_inputs, is_called_with_tensors, joined, put_part
from rebnn_mm.deploy.graph.trial import tensors_of
from rebnn_mm.deploy.layers.packable import is_packed

Outputs = dict[str, list[Any]]


def find_towers(model: nn.Module, within: Sequence[str], run: Run, *others: Run) -> list[Part]:
    """The largest modules that can be exchanged for functions of tensors, with the inputs of their first call.

    That is tried out: with nothing but the forward in the place of such a module, all modules around it give the same.
    A list of modules that are called one after the other counts as one. Single 1-bit layers are left out. A module that
    is called with other numbers of dimensions at times comes back refused, and is searched for smaller ones.

    Args:
        model: In eval mode; it is not changed.
        within: Names of the modules in which they are searched; these themselves are none.
        run: Uses the model as it is going to be used, each time on the same inputs.
        others: Likewise, on inputs of other sizes; as for :func:`rebnn_mm.deploy.graph.parts.find_inputs`.
    """
    found: list[str] = []
    refused: list[Part] = []
    forms, expected = _forms(model, run, *others), _outputs(model, run)
    callable_names = {name for name, own in forms.items() if len(own) == 1 and None not in own}
    level = list(within)
    while level:
        level = [name for parent in level for name in _children(model, parent)]
        known = tuple(f"{part.name}." for part in refused)  # with a module's reason that of those in it is said
        several = [name for name in level if len(forms.get(name, ())) > 1 and not name.startswith(known)]
        refused += [_refused(name, forms[name]) for name in several]
        tried = [name for name in level if _is_candidate(model, name, callable_names)]
        if tried and not _exchangeable(model, tried, run, expected):
            tried = [name for name in tried if _exchangeable(model, [name], run, expected)]
        found += tried
        level = [name for name in level if name not in tried]
    return find_inputs(model, found, run, *others) + refused


def _refused(name: str, forms: Iterable[tuple[int, ...] | None]) -> Part:
    said = ("no tensors" if form is None else f"{', '.join(map(str, form))} dimensions" for form in forms)
    return Part(
        name, (), refused=f"it is called with inputs of {' and of '.join(sorted(said))}, and a graph is for one"
    )


def _children(model: nn.Module, parent: str) -> Iterator[str]:
    """Names of the modules directly in ``parent`` that hold 1-bit layers and are none themselves."""
    for name, child in model.get_submodule(parent).named_children():
        if not is_packed(child) and any(map(is_packed, child.modules())):
            yield f"{parent}.{name}" if parent else name


def _is_candidate(model: nn.Module, name: str, callable_names: set[str]) -> bool:
    module = model.get_submodule(name)
    if not isinstance(module, nn.ModuleList):
        return name in callable_names and not _is_head(module)
    members = [f"{name}.{index}" for index in range(len(module))]
    return len(members) > 1 and all(_is_candidate(model, member, callable_names) for member in members)


def _is_head(module: nn.Module) -> bool:
    """Whether others call more of a module than its forward: its loss, and what it makes of its outputs."""
    return any(name.startswith(("loss", "predict")) for kind in type(module).__mro__ for name in vars(kind))


def _forms(model: nn.Module, *runs: Run) -> dict[str, set[tuple[int, ...] | None]]:
    """For each module that is called, the numbers of dimensions of its inputs; None where not all are tensors."""
    seen: dict[str, set[tuple[int, ...] | None]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            given = is_called_with_tensors(args, keywords)
            form = tuple(x.dim() for x in tensors_of(args)) if given else None
            seen.setdefault(name, set()).add(form)

        return hook

    hooks = [m.register_forward_pre_hook(watch(name), with_kwargs=True) for name, m in model.named_modules()]
    with _removed(hooks), torch.no_grad():
        for run in runs:
            run(model)
    return seen


def _exchangeable(model: nn.Module, names: Sequence[str], run: Run, expected: Outputs) -> bool:
    """Whether the modules around those of ``names`` need no more of them than their forward, and give ``expected``."""
    before = [(name, model.get_submodule(name)) for name in names]
    try:
        for name, module in before:
            put_part(model, name, _Forward(joined(module)))
        found = _outputs(model, run)
    except Exception:  # whatever foreign code says to a module that lacks something
        return False
    finally:
        for name, module in before:
            model.set_submodule(name, module)
    inside = tuple(f"{name}." for name in names)
    a, b = ({n: x for n, x in part.items() if not f"{n}.".startswith(inside)} for part in (expected, found))
    return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)


class _Forward(nn.Module):
    """The forward of a module, and nothing else of it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._call = (module,)  # in a tuple it is no part of this one

    def forward(self, *args: Any) -> Any:
        return self._call[0](*args)


def _outputs(model: nn.Module, run: Run) -> Outputs:
    """What each module returns in ``run``, in the order of its calls."""
    outputs: Outputs = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            outputs.setdefault(name, []).extend(x for x in tree_leaves(output) if isinstance(x, Tensor))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    with _removed(hooks), torch.no_grad():
        run(model)
    return outputs


@contextmanager
def _removed(hooks: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _equal(expected: list[Tensor], found: list[Tensor]) -> bool:
    pairs = zip(expected, found, strict=False)
    return len(expected) == len(found) and all(a.shape == b.shape and _same_values(a, b) for a, b in pairs)


def _same_values(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())  # the second: not a number in both
