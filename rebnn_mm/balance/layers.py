"""Which layers have a balance parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from rebnn_mm.errors import UserError, UserTypeError


def balanced_layers(layers: nn.Module | Mapping[str, nn.Module] | Iterable[nn.Module]) -> dict[str, Any]:
    """Of a model, or of layers by name or in a list: those with a trainable ``weight``, an ``alpha`` and a ``gamma``.

    These are ReBNN's layers, and any that hold a 1-bit ``weight``, ``alpha`` (C_out,) and ``gamma`` (C_out, 1, ...) in
    the same way.

    Raises:
        TypeError: Neither a model nor layers.
    """
    if isinstance(layers, nn.Module):
        named = dict(layers.named_modules())
    elif isinstance(layers, Mapping):
        named = dict(layers)
    elif isinstance(layers, Iterable):
        named = {str(place): layer for place, layer in enumerate(layers)}
    else:
        raise UserTypeError(f"Balance: layers is a {type(layers).__name__}; give a model, or its layers by name")
    for name, layer in named.items():
        if not isinstance(layer, nn.Module):
            raise UserTypeError(f"Balance: layers holds {name!r}, a {type(layer).__name__}, which is no module")
    return {name: layer for name, layer in named.items() if _has_balance(layer)}


def _has_balance(layer: nn.Module) -> bool:
    """A norm or a ConvNeXt block has a ``gamma`` too, which is a parameter, and no ``alpha`` beside it."""
    weight, alpha = (layer._parameters.get(name) for name in ("weight", "alpha"))
    return weight is not None and alpha is not None and layer._buffers.get("gamma") is not None and weight.requires_grad


def layers_of(optimizer: Optimizer, layers: Any) -> dict[str, Any]:
    """Those of :func:`balanced_layers` whose weight ``optimizer`` updates.

    Raises:
        ValueError: There is none, or weights are split over processes.
    """
    found = balanced_layers(layers)
    if not found:
        raise UserError(
            "Balance: there is no trainable ReBNN layer. Make the model 1-bit first (rebnn_mm.convert.binarize, or "
            "ReBNNConv2d and ReBNNLinear in it), or unfreeze it"
        )
    split = next((name for name, layer in found.items() if hasattr(layer.weight, "placements")), None)
    if split is not None:
        raise UserError(
            f"Balance: the weight of {split!r} is split over processes (FSDP2's fully_shard, a DTensor), and gamma is "
            "computed from whole latent weights: use DistributedDataParallel; it keeps all of them on each device"
        )
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    mine = {name: layer for name, layer in found.items() if id(layer.weight) in updated}
    if not mine:
        raise UserError(
            f"Balance: the optimizer updates none of the {len(found)} ReBNN layers' weights; make the optimizer from "
            "the parameters of this very model, after it was made 1-bit and moved"
        )
    return mine
