"""Copies of a network that the model carries beside it: the target network of BYOL, MoCo's key encoder, an EMA.

A copy takes over the original's parameters one by one, so it must be made 1-bit where the original is, although its own
parameters have no gradient. A frozen teacher for distillation is no such copy: it stays as it is.
"""

from __future__ import annotations

import re
from typing import Any

from mmengine.model import BaseAveragedModel
from torch import nn
from torch.optim.swa_utils import AveragedModel

Copies = dict[nn.Module, nn.Module]

# Names of a part that follows another one's parameters
_FOLLOWS = re.compile(r"(^|_)(target|momentum|ema|averaged|moving|key|k)(_|$)")
# Such a part may also be called like this; a teacher for distillation is, too, so it decides less
_TEACHER = re.compile(r"(^|_)teacher(_|$)")


def find_copies(model: nn.Module) -> Copies:
    """Each layer of a part that follows another part's parameters -> the layer that it follows.

    Found are mmengine's and torch's averaged models, and parts without gradients called ``target_net``,
    ``momentum_encoder``, ``ema``, ``encoder_k`` and the like that are built as another part is.
    """
    return _matched(model, _outermost(model, _is_follower), set())


def find_teachers(model: nn.Module, copies: Copies) -> Copies:
    """Each layer of a part called a teacher that is still to be trained -> the same layer of the part it is built like.

    CAE's teacher is one: built as the backbone is, and frozen only when its weights are initialised.
    """

    def is_teacher(name: str, module: nn.Module) -> bool:
        return bool(_TEACHER.search(name)) and any(p.requires_grad for p in module.parameters())

    return _matched(model, _outermost(model, is_teacher), set(copies))


def beside(model: nn.Module) -> set[nn.Module]:
    """All modules in copies and teachers: none is the first or the last layer of the network that trains."""

    def is_beside(name: str, module: nn.Module) -> bool:
        return _is_follower(name, module) or bool(_TEACHER.search(name))

    return {module for part in _outermost(model, is_beside) for module in part.modules()}


def refresh_averages(model: nn.Module) -> None:
    """Let mmengine's averaged models see the parameters that they have now: they keep a list of them."""
    for module in model.modules():
        if isinstance(module, BaseAveragedModel):
            inner = module.module
            module.avg_parameters = inner.state_dict() if module.update_buffers else dict(inner.named_parameters())


def _is_follower(name: str, module: nn.Module) -> bool:
    if isinstance(module, (BaseAveragedModel, AveragedModel)):
        return True
    return bool(_FOLLOWS.search(name)) and not any(p.requires_grad for p in module.parameters())


def _outermost(model: nn.Module, wanted: Any) -> list[nn.Module]:
    """Composite parts for which ``wanted(own name, module)`` holds, none within another."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if name and module not in inside and _is_composite(module) and wanted(name.rpartition(".")[2], module):
            found.append(module)
            inside.update(module.modules())
    return found


def _matched(model: nn.Module, followers: list[nn.Module], others: set[nn.Module]) -> Copies:
    """Layers of the followers -> layers of parts that are built alike, the largest parts first.

    Args:
        model: What all are parts of.
        followers: Parts, none within another.
        others: Modules that are followed by none.
    """
    copies: Copies = {}
    if not followers:
        return copies
    inside = others.union(*(follower.modules() for follower in followers))
    by_build: dict[Any, list[nn.Module]] = {}
    for part in model.modules():
        if part not in inside and _is_composite(part):
            by_build.setdefault(_build(part), []).append(part)
    waiting = list(reversed(followers))
    while waiting:
        part = waiting.pop()
        alike = by_build.get(_build(part)) if _is_composite(part) else None
        if not alike:
            waiting.extend(reversed(list(part.children())))
            continue
        original = alike.pop(0) if len(alike) > 1 else alike[0]  # of heads that are alike, each is followed once
        copies.update(zip(part.modules(), original.modules(), strict=True))
    return copies


def _is_composite(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _build(module: nn.Module) -> Any:
    """What two parts have in common that are built alike: names, classes and shapes of all that is in them."""
    return tuple(
        (name, type(part), tuple((key, p.shape) for key, p in part._parameters.items() if p is not None))
        for name, part in module.named_modules()
    )
