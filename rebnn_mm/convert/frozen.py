"""Parts of a model that do not train: frozen stages, layers without a gradient, norms held in evaluation."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from torch import nn

FROZEN = ("keep", "unfreeze", "binarize")


def settle(model: nn.Module) -> None:
    """Freeze the stages that ``frozen_stages`` names: some backbones do so only when training starts."""
    for _, part in _parts_with_frozen_stages(model):
        part.train(part.training)


def unfreeze(model: nn.Module, copies: Container[nn.Module] = ()) -> None:
    """Let everything train that ``frozen_stages`` and ``norm_eval`` of OpenMMLab's backbones hold back, from now on.

    Args:
        model: Changed in place.
        copies: Parts of it that follow others and never train.
    """
    for _, part in _parts_with_frozen_stages(model):
        if part in copies:
            continue
        part.frozen_stages = -1
        part.requires_grad_(True)
        part.train(part.training)
    for _, part in parts_with_norm_eval(model):
        part.norm_eval = False
        part.train(part.training)


def parts_with_norm_eval(model: nn.Module) -> list[tuple[str, Any]]:
    """The parts that put their batch norms into evaluation while they train, by name."""
    return [(name, part) for name, part in model.named_modules() if getattr(part, "norm_eval", False) is True]


def _parts_with_frozen_stages(model: nn.Module) -> list[tuple[str, Any]]:
    found = ((name, part, getattr(part, "frozen_stages", None)) for name, part in model.named_modules())
    return [(name, part) for name, part, stages in found if isinstance(stages, int) and stages >= 0]


def reason_of_frozen(module: nn.Module, model: nn.Module) -> str | None:
    """Why a layer does not train; None if it does."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return "frozen: its weight has no gradient, so signs and scale would never train"
    if model.training and not module.training:
        return "frozen: it is in evaluation mode while the model trains"
    return None


def warning_of_frozen(kept: dict[str, str]) -> str | None:
    """One sentence on the layers that were kept since they are frozen."""
    names = [name for name, why in kept.items() if why.startswith("frozen")]
    if not names:
        return None
    return (
        f"binarize: {len(names)} frozen layers stay real-valued: {_some(names)}. frozen='unfreeze' makes them 1-bit "
        "and lets them train, with the norms of norm_eval=True; frozen='binarize' makes them 1-bit as they are"
    )


def warning_of_norm_eval(model: nn.Module, replaced: Iterable[str]) -> str | None:
    """One sentence on the 1-bit layers whose surroundings keep batch norms in evaluation."""
    parts = [name for name, _ in parts_with_norm_eval(model)]
    names = [layer for layer in replaced if any(not part or layer.startswith(f"{part}.") for part in parts)]
    if not names:
        return None
    return (
        f"binarize: norm_eval=True in {_some([part or 'the model' for part in parts])} keeps the batch norms around "
        f"{len(names)} 1-bit layers at the statistics of the real-valued network, which signs do not have: "
        f"{_some(names)}. Set norm_eval=False, or frozen='unfreeze' in binarize"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
