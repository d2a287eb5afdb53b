"""What kind of layer a module is, by what it computes, and where a model has them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from rebnn_mm import adaptive_padding
from rebnn_mm.adaptive_padding import full_name
from rebnn_mm.errors import UserError
from rebnn_mm.layers.interface import BinaryLayer
from rebnn_mm.layers.window_attention import is_window_attention

Names = dict[nn.Module, tuple[str, ...]]

KINDS: dict[str, type[nn.Module]] = {
    "Conv2d": nn.Conv2d,
    "Linear": nn.Linear,
    "MultiheadAttention": nn.MultiheadAttention,
}
# Subclasses with a forward of their own that gives what torch's gives: they only treat empty inputs for old versions
# of torch, or cast under autocast. Any subclass without a forward of its own needs no entry.
SAME_FORWARD = {
    "mmcv.cnn.bricks.wrappers.Conv2d",
    "mmcv.cnn.bricks.wrappers.Linear",
    "timm.layers.linear.Linear",
}
_COMPUTES = ("forward", "_conv_forward", "__call__", "_call_impl", "_wrapped_call_impl", "__getattr__")


def kind_of(module: nn.Module) -> str | None:
    """Key of :data:`KINDS` whose torch class computes what ``module`` computes; None if none does."""
    if is_window_attention(module):
        return "MultiheadAttention"
    for kind, base in KINDS.items():
        if isinstance(module, base):
            return kind if _is_plain(module, base) else None
    return None


def _is_plain(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether an instance of a subclass of ``base`` holds and computes nothing else."""
    if isinstance(module, BinaryLayer) or "forward" in vars(module):
        return False
    own = [kind for kind in _above(module, base) if full_name(kind) not in SAME_FORWARD]
    if own and full_name(own[-1]) in adaptive_padding.PADS_BY_SIZE and adaptive_padding.padding_of(module) is not None:
        own.pop()
    if any(name in vars(kind) for kind in own for name in _COMPUTES):
        return False
    if base is nn.MultiheadAttention:
        return set(module._modules) == {"out_proj"} and not module._buffers
    return set(module._parameters) <= {"weight", "bias"} and not module._buffers and not module._modules


def _above(module: nn.Module, base: type[nn.Module]) -> list[Any]:
    """The classes of ``module`` before ``base`` in the order of their look-up."""
    order = type(module).__mro__
    return list(order[: order.index(base)])


def is_attention(module: nn.Module) -> bool:
    """Whether a module is an attention of torch's or torchvision's, whose projections are no layers that it calls."""
    return isinstance(module, nn.MultiheadAttention) or is_window_attention(module)


def names_by_module(model: nn.Module) -> tuple[Names, Names]:
    """All convolutions and linear layers, and all attentions, in module order, with all their names.

    The layers inside an attention belong to it and are not among the first.
    """
    layers: Names = {}
    attentions: Names = {}
    inside: set[nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if is_attention(module):
            attentions[module] = (*attentions.get(module, ()), name)
            inside.update(module.modules())
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module not in inside:
            layers[module] = (*layers.get(module, ()), name)
    return layers, attentions


def matches_any(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a pattern fits one of the names or a module above it."""
    return any(_matches(name, pattern) for name in names for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def check_patterns(argument: str, patterns: Sequence[str], names: Names) -> None:
    """Refuse a pattern that fits no layer.

    Raises:
        ValueError: There is one.
    """
    layers = [name for known in names.values() for name in known]
    idle = [pattern for pattern in patterns if not matches_any(layers, [pattern])]
    if idle:
        shown = ", ".join(layers[:8]) + (", ..." if len(layers) > 8 else "")
        raise UserError(
            f"binarize: {argument} patterns {idle} match no convolution or linear layer. "
            f"The model's {len(layers)} layers are {shown or 'none'}; write '*.conv1' for every conv1"
        )


def type_names(types: str | type | Sequence[str | type], layer: dict[str, Any]) -> tuple[str, ...]:
    """The argument ``types`` as keys of :data:`KINDS`.

    Raises:
        ValueError: An unknown one, none, or several where ``layer`` has the type of one.
    """
    given = (types,) if isinstance(types, (str, type)) else tuple(types)
    classes = {kind: name for name, kind in KINDS.items()}
    names = tuple(classes.get(kind, str(kind)) if isinstance(kind, type) else kind for kind in given)
    if not names or any(name not in KINDS for name in names):
        raise UserError(f"binarize: types={names}: choose from {tuple(KINDS)}")
    if "type" in layer and "Conv2d" in names and len(names) > 1:
        raise UserError(
            f"binarize: layer type {layer['type']!r} cannot stand for all of types={names}; name one of them, or give "
            "layer=dict(Conv2d=dict(type=...), Linear=dict(type=...))"
        )
    return names
