"""Which optimizer updates which layers: where hooks around the parameter update attach."""

from __future__ import annotations

import math
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict

from rebnn_mm.errors import UserError
from rebnn_mm.layers.interface import binary_layers


def unwrapped(model: Any) -> Any:
    """The model itself where it is within a wrapper, such as DistributedDataParallel."""
    return model.module if is_model_wrapper(model) else model


def trained_layers(hook: str, model: Any) -> dict[str, Any]:
    """1-bit layers of ``model``, which may be wrapped (DDP), whose weight learns, by name.

    Args:
        hook: Name for error messages.
        model: The runner's.

    Raises:
        ValueError: There is none.
    """
    layers = {name: layer for name, layer in binary_layers(unwrapped(model)).items() if layer.weight.requires_grad}
    if not layers:
        raise UserError(
            f"{hook}: the model has no 1-bit layer whose weight learns; make one 1-bit (conv_cfg="
            f"dict(type='ReBNNConv2d'), type='Binarized'), unfreeze it, or remove {hook} from the config's hooks"
        )
    return layers


def layers_by_optimizer(hook: str, optim_wrapper: Any, layers: dict[str, Any]) -> list[tuple[int, Any, dict[str, Any]]]:
    """(index, optim wrapper, its layers) for every optimizer that updates the weight of at least one of ``layers``.

    Args:
        hook: Name for error messages.
        optim_wrapper: The runner's, or its dict of wrappers.
        layers: Layers with a latent ``weight``, by name.

    Raises:
        ValueError: No optimizer updates any layer, or one unscales gradients by itself (fused under a GradScaler).
    """
    wrappers = optim_wrapper.values() if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
    found = []
    for index, wrapper in enumerate(wrappers):
        _refuse_self_unscaling(hook, wrapper)
        updated = {id(p) for group in wrapper.optimizer.param_groups for p in group["params"]}
        mine = {name: layer for name, layer in layers.items() if id(layer.weight) in updated}
        if mine:
            found.append((index, wrapper, mine))
    if not found:
        raise UserError(
            f"{hook}: no optimizer updates any of the {len(layers)} 1-bit layers; check optim_wrapper.paramwise_cfg"
        )
    return found


def planned_updates(wrapper: Any, iterations: int) -> int:
    """Updates that ``iterations`` iterations give: mmengine's wrappers step after every ``accumulative_counts``-th one.

    The last iteration steps in any case. A model that calls its optimizers by itself may step less often.
    """
    return math.ceil(iterations / getattr(wrapper, "_accumulative_counts", 1))


def refuse_several(hook: Any, hooks: list[Any]) -> None:
    """Two of a kind would both act on the same layers.

    Raises:
        ValueError: ``hooks`` holds another one of ``hook``'s class.
    """
    name = type(hook).__name__
    number = sum(type(other) is type(hook) for other in hooks)
    if number > 1:
        raise UserError(f"{name} is there {number} times: keep one in custom_hooks or default_hooks")


def _refuse_self_unscaling(hook: str, wrapper: Any) -> None:
    """A fused optimizer under a GradScaler sees scaled gradients: a pre-hook would mix units."""
    scaler = getattr(wrapper, "loss_scaler", None)
    if scaler is not None and scaler.is_enabled() and getattr(wrapper.optimizer, "_step_supports_amp_scaling", False):
        raise UserError(
            f"{hook}: {type(wrapper.optimizer).__name__}(fused=True) unscales gradients inside its step under AMP, "
            "after the hook has read them; set optimizer.fused=False"
        )
