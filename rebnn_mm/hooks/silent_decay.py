"""A weight decay for those latent weights alone whose sign has long been the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from rebnn_mm.checks import check_number
from rebnn_mm.hooks.attach import layers_by_optimizer, refuse_several, trained_layers


@HOOKS.register_module()
class SilentDecayHook(Hook):
    """Add ``decay * w`` to the gradient of silent latent weights before each update.

    The second part of OvSW (Xiang et al., ECCV 2024, "silence awareness decaying"). A weight's flip rate is a running
    average of whether its sign flipped in an update: ``r <- momentum * r + (1 - momentum) * flipped``, from 0. It is
    silent where ``r < threshold``; with the defaults, which are the authors', that is until its first flip and again
    2,302 updates after a single one. The first part of OvSW scales a channel's gradient, which Adam undoes.
    No config ships with it.

    Args:
        decay: Factor of the weight in the gradient.
        momentum: Of the flip rate.
        threshold: Flip rate below which a weight is silent.

    Raises:
        ValueError: An option out of range; a second SilentDecayHook; a model without 1-bit layers whose weight
            learns; an optimizer that unscales gradients by itself (fused under a GradScaler).
    """

    # its step hook comes behind those of OscillationHook and BalanceHook, which read the task's gradient
    priority = "BELOW_NORMAL"

    def __init__(self, decay: float = 9e-4, momentum: float = 0.999, threshold: float = 1e-4) -> None:
        check_number("SilentDecayHook: decay", decay, above=0)
        check_number("SilentDecayHook: momentum", momentum, above=0, below=1)
        check_number("SilentDecayHook: threshold", threshold, above=0, below=1)
        self.decay = decay
        self.momentum = momentum
        self.threshold = threshold
        self._rates: dict[str, _FlipRate] = {}
        self._handles: list[Any] = []
        self._resumed: dict[str, Tensor] = {}

    def before_train(self, runner) -> None:
        """Find the layers and attach to every optimizer that updates one."""
        refuse_several(self, runner.hooks)
        layers = trained_layers("SilentDecayHook", runner.model)
        self._rates = {}
        for _, wrapper, mine in layers_by_optimizer("SilentDecayHook", runner.optim_wrapper, layers):
            rates = {name: _FlipRate(layer, self.momentum, self._resumed.get(name)) for name, layer in mine.items()}
            self._rates |= rates
            self._handles += [
                wrapper.optimizer.register_step_pre_hook(partial(self._before_update, rates)),
                wrapper.optimizer.register_step_post_hook(partial(self._after_update, rates)),
            ]

    def after_train(self, runner) -> None:
        """Detach from the optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the flip rates, one float a latent weight."""
        if self._rates:
            checkpoint["rebnn_flip_rate"] = {name: rate.rate.cpu() for name, rate in self._rates.items()}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take them up again; a checkpoint that is only loaded (not resumed) starts afresh."""
        if runner._resume:
            self._resumed = checkpoint.get("rebnn_flip_rate", {})

    @torch.no_grad()
    def _before_update(self, rates: dict[str, _FlipRate], optimizer, args, kwargs) -> None:
        for rate in rates.values():
            weight = rate.layer.weight
            if weight.grad is not None:
                weight.grad.add_(weight * (rate.rate < self.threshold), alpha=self.decay)

    @torch.no_grad()
    def _after_update(self, rates: dict[str, _FlipRate], optimizer, args, kwargs) -> None:
        for rate in rates.values():
            rate.count()


class _FlipRate:
    """How often each sign of one layer flips in an update, as a running average.

    Args:
        layer: A layer with ``weight`` and ``binary_weight()``.
        momentum: Share of the average that stays.
        rate: The average up to now, of the weight's shape; 0 without it.
    """

    def __init__(self, layer: Any, momentum: float, rate: Tensor | None) -> None:
        self.layer = layer
        self.momentum = momentum
        self.rate = torch.zeros_like(layer.weight) if rate is None else rate.to(layer.weight)
        self.signs = self._signs()

    def count(self) -> None:
        """Take in whether signs have flipped since the last count."""
        signs = self._signs()
        self.rate.lerp_((signs != self.signs).to(self.rate), 1 - self.momentum)
        self.signs = signs

    def _signs(self) -> Tensor:
        return self.layer.binary_weight().detach() >= 0
