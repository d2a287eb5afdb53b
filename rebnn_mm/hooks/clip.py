"""Latent weights that are held where their sign's slope is not 0."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from rebnn_mm.checks import check_number
from rebnn_mm.hooks.attach import refuse_several, trained_layers


@HOOKS.register_module()
class LatentClipHook(Hook):
    """Clip the latent weights of all 1-bit layers to ``[-limit, limit]`` after each iteration.

    Part of the first binary networks (Courbariaux et al., NeurIPS 2016, algorithm 1). Beyond 1 the slope of a
    weight's sign is 0: no gradient of the task brings it back, and its sign stays as it is. No config ships with it.

    Args:
        limit: Largest size of a latent weight.

    Raises:
        ValueError: ``limit`` is no positive number; a model without 1-bit layers whose weight learns.
    """

    # before the record of a training, which shall see what the next forward sees
    priority = "HIGH"

    def __init__(self, limit: float = 1.0) -> None:
        check_number("LatentClipHook: limit", limit, above=0)
        self.limit = limit
        self._weights: list[torch.Tensor] = []

    def before_train(self, runner) -> None:
        """Find the latent weights."""
        refuse_several(self, runner.hooks)
        self._weights = [layer.weight for layer in trained_layers("LatentClipHook", runner.model).values()]

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Clip them."""
        for weight in self._weights:
            weight.clamp_(-self.limit, self.limit)
