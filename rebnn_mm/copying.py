"""Copies of models for inference, of those too that torch and mmdet make hard to copy."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def copy_model(model: nn.Module) -> nn.Module:
    """A copy for inference, on the CPU and in eval mode, without gradients.

    Heads may keep what they computed last, and torch refuses to copy a tensor that has a history: it is copied without.
    The parameters need no gradient: torch multiplies in another order with those that do. Calls are not chained: the
    ``eval()`` of some models, mmdet's distillers for example, returns nothing.
    """
    with _DetachedCopies():
        copied = copy.deepcopy(model)
    copied.cpu()
    copied.eval()
    copied.requires_grad_(False)
    return copied


class _DetachedCopies(TorchFunctionMode):
    """Let ``copy.deepcopy`` copy tensors that are results of others, without their history."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))
