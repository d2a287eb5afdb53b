"""Why a layer stays real-valued."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from rebnn_mm.adaptive_padding import padding_of
from rebnn_mm.convert.frozen import reason_of_frozen
from rebnn_mm.convert.kinds import Names, is_attention, kind_of, matches_any
from rebnn_mm.layers.interface import BinaryLayer

Reasons = dict[nn.Module, str | None]

# Squeeze-and-excitation: it weighs the channels by their means, one value a channel, which signs cannot tell apart.
# Real-to-Binary Net (ICLR 2020) and its followers keep it real-valued; it has few operations.
_GATES = {
    "SELayer",
    "SqueezeExcitation",
    "SqueezeExcite",
    "SEModule",
    "SEBlock",
    "EffectiveSELayer",
    "ChannelAttention",
}
_FEWEST_INPUTS = 4


@dataclass(frozen=True)
class Choice:
    """What the caller of ``binarize`` chose.

    Attributes:
        include, exclude: Patterns; an ``include`` of None is everything.
        types: Keys of :data:`rebnn_mm.convert.kinds.KINDS`.
        depthwise: Whether depthwise convolutions become 1-bit.
        frozen: ``'keep'``, ``'unfreeze'`` or ``'binarize'``.
    """

    include: tuple[str, ...] | None
    exclude: tuple[str, ...]
    types: tuple[str, ...]
    depthwise: bool = False
    frozen: str = "keep"


def ends(modules: list[nn.Module], first: bool, last: bool) -> dict[nn.Module, str]:
    """The first and the last layer, where they are to be kept."""
    kept: dict[nn.Module, str] = {}
    if modules and last:
        kept[modules[-1]] = "last layer (keep_last)"
    if modules and first:
        kept[modules[0]] = "first layer (keep_first)"
    return kept


def reason_to_keep(module: nn.Module, names: tuple[str, ...], choice: Choice, model: nn.Module) -> str | None:
    """Why one layer, by itself, stays as it is; None if it becomes 1-bit."""
    if isinstance(module, BinaryLayer):
        return "1-bit already"
    if parametrize.is_parametrized(module):
        return "is parametrized: its weight is computed from other tensors, and a new layer would lose that"
    if matches_any(names, choice.exclude):
        return "excluded"
    if choice.include is not None and not matches_any(names, choice.include):
        return "not included"
    if any(part._forward_pre_hooks or part._forward_hooks for part in module.modules()):
        return "has forward hooks (weight norm, pruning?), which a new layer would lose"
    kind = kind_of(module)
    if kind is None and isinstance(module, nn.Conv2d) and padding_of(module) is None:
        return "pads by the size of its input, by turns more on one side (adaptive padding), which no 1-bit layer does"
    if kind is None:
        return f"{type(module).__module__}.{type(module).__name__} is a subclass that computes or holds something else"
    if kind not in choice.types:
        return f"{kind} is not among types"
    if choice.frozen == "keep" and (reason := reason_of_frozen(module, model)):
        return reason
    return _reason_of_attention(module) if kind == "MultiheadAttention" else _reason_of_size(module, choice)


def _reason_of_attention(module: Any) -> str | None:
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        return "an attention with keys of its own (add_bias_kv, add_zero_attn), for which there is no 1-bit form"
    if any(parametrize.is_parametrized(part) for part in module.modules()):
        return "is parametrized: a weight of it is computed from other tensors"
    return None


def _reason_of_size(module: Any, choice: Choice) -> str | None:
    outputs, inputs = module.weight.shape[0], module.weight[0].numel()
    depthwise = isinstance(module, nn.Conv2d) and module.groups > 1 and module.weight.shape[1] == 1
    if depthwise:
        return None if choice.depthwise else "depthwise convolution: it loses accuracy and is no faster (depthwise)"
    if outputs == 1:
        return "has a single output, which is a score to be read and not a feature"
    if inputs < _FEWEST_INPUTS:
        return f"has {inputs} inputs to each output, whose signs keep too little"
    return None


def gates(model: nn.Module) -> dict[str, str]:
    """Name of each layer inside a squeeze-and-excitation -> its class."""
    return {
        f"{name}.{inner}": type(module).__name__
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module).__name__ in _GATES
        for inner, _ in module.named_modules(remove_duplicate=False)
    }


def reason_of_gate(names: Iterable[str], inside: dict[str, str]) -> str | None:
    """That a layer is part of a squeeze-and-excitation."""
    gate = next((inside[name] for name in names if name in inside), None)
    return gate and f"part of a squeeze-and-excitation ({gate}), which sees one value a channel"


def reason_of_reader(names: Iterable[str], readers: dict[str, str]) -> str | None:
    """That another module reads the weight past the layer's forward."""
    reader = next((readers[name] for name in names if name in readers), None)
    return reader and f"{reader} reads its weight itself, past the layer's forward"


def keep_what_shares_real_weights(model: nn.Module, names: Names, reasons: Reasons) -> None:
    """Set the reason of each layer whose weight a module that stays real-valued holds as well."""
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            holders.setdefault(id(parameter), []).append((module, name))
    # layers that share one weight are judged alike, so one pass suffices
    for module, reason in list(reasons.items()):
        if reason is not None:
            continue
        for parameter in module.parameters() if is_attention(module) else [module.weight]:
            inside = set(module.modules())
            others = [(other, name) for other, name in holders.get(id(parameter), []) if other not in inside]
            if is_attention(module):  # torch's is copied, so nothing of it can stay shared
                real = next((name for _, name in others), None)
            else:
                kept = (name for o, name in others if not isinstance(o, BinaryLayer) and reasons.get(o, "no layer"))
                real = next(kept, None)
            if real is not None:
                reasons[module] = f"shares its weight with {real or 'the model itself'}, which stays real-valued"
