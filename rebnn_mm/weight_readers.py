"""Which layers a model reads the weight of, or never calls: made 1-bit, they would stay real-valued in silence.

torchvision's Swin hands ``self.qkv.weight`` to a function: the layer's own forward, where the signs are, does not run.
``nn.TransformerEncoderLayer`` does so with ``self.linear1.weight`` in evaluation, but not beside 1-bit layers, see
:mod:`rebnn_mm.fast_path`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

# Methods that compute; initialisers, conversions and loaders read weights as well, and rightly.
_COMPUTES = re.compile(r"_?(forward|loss|predict|extract_feat|generate|encode|decode|pre_logits|logits)")
# what is asked of a weight without computing with it
_HARMLESS = {"device", "dim", "dtype", "is_cuda", "layout", "ndim", "numel", "requires_grad", "shape", "size"}


def weight_readers(model: nn.Module, harmless: Collection[nn.Module] = ()) -> dict[str, str]:
    """Dotted name of each layer whose ``weight`` a module above it reads while computing -> that module's class.

    Found in the source of the modules' classes: every ``self.NAME.weight`` (also ``self.A.B.weight``, and the
    ``in_proj_weight`` of an attention) in ``forward`` and in what it uses. A class without source, a weight that is
    reached by another variable, or ``getattr`` is not seen; :func:`uncalled` sees what follows from it.

    Args:
        model: Is not run.
        harmless: Modules in it that are known not to read.
    """
    readers: dict[str, str] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        kind: Any = type(module)
        if module in harmless:
            continue
        for path in _weights_read_by(kind):
            readers[f"{prefix}.{path}" if prefix else path] = kind.__name__
    return readers


def uncalled(model: nn.Module, layers: Mapping[str, nn.Module], sample: Any) -> set[str]:
    """Names of the ``layers`` that a run of the model on ``sample`` in evaluation does not call.

    Args:
        model: Put back into its mode afterwards; no gradients are computed.
        layers: By name.
        sample: An input, a tuple of positional arguments, a dict of keyword arguments, or a function that is given
            the model and runs it.
    """
    called: set[nn.Module] = set()
    training = {module: module.training for module in model.modules()}
    # for all modules at once: torch's fast paths step aside for a module that has a hook of its own
    handle = register_module_forward_pre_hook(lambda module, args: called.add(module))
    try:
        model.eval()
        with torch.no_grad():
            run_sample(model, sample)
    finally:
        handle.remove()
        for module, mode in training.items():
            module.training = mode
    return {name for name, layer in layers.items() if layer not in called}


def run_sample(model: nn.Module, sample: Any) -> None:
    """Run the model on ``sample``, as :func:`uncalled` takes it."""
    if isinstance(sample, Mapping):
        model(**sample)
    elif isinstance(sample, tuple):
        model(*sample)
    elif callable(sample):
        sample(model)
    else:
        model(sample)


@functools.cache
def _weights_read_by(kind: Any) -> frozenset[str]:
    """Paths below the module class ``kind`` of the weights that its computing methods read."""
    bases = [base for base in kind.__mro__ if issubclass(base, nn.Module) and base is not nn.Module]
    waiting = [(0, name) for name in {name for base in bases for name in vars(base)} if _COMPUTES.match(name)]
    seen: set[tuple[int, str]] = set()
    paths: set[str] = set()
    while waiting:
        start, name = waiting.pop()
        index = next((i for i in range(start, len(bases)) if name in vars(bases[i])), None)
        if index is None or (index, name) in seen:
            continue
        seen.add((index, name))
        for path, above in _uses(vars(bases[index])[name]):
            owner, _, last = path.rpartition(".")
            if owner and last in ("weight", "in_proj_weight"):
                paths.add(owner)
            elif "." not in path:  # a method or property of the module itself
                waiting.append((index + 1 if above else 0, path))
    return frozenset(paths)


def _uses(member: Any) -> Iterator[tuple[str, bool]]:
    """What a method takes from ``self``, as dotted paths, and whether it does so through ``super()``."""
    function = _function(member)
    if function is None:
        return
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source, or a piece of a line
        return
    harmless = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in _HARMLESS}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load) or id(node) in harmless:
            continue
        names = [node.attr]
        value = node.value
        while isinstance(value, ast.Attribute):
            names.insert(0, value.attr)
            value = value.value
        if isinstance(value, ast.Name) and value.id == "self":
            yield ".".join(names), False
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super":
            yield names[0], True


def _function(member: Any) -> Callable[..., Any] | None:
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    return inspect.unwrap(member) if inspect.isfunction(member) else None
