"""The balance parameter gamma, computed around every parameter update (Xu et al., AAAI 2023, B.3.144-152)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor
from torch.optim import Optimizer

from rebnn_mm import functional as F
from rebnn_mm.errors import UserError
from rebnn_mm.files.bits import pack, unpack
from rebnn_mm.hooks.attach import layers_by_optimizer, planned_updates, refuse_several
from rebnn_mm.hooks.onset import Onset
from rebnn_mm.layers import binary_layers

_MAGNITUDES = ("weight", "gradient")


@dataclass
class _Balanced:
    """One ReBNN layer and what has to be remembered between two moments of an update."""

    layer: Any  # a layer with weight, alpha and gamma
    signs: Any = None  # Tensor (C_out, ...) bool, at the last snapshot
    magnitude: Tensor | None = None  # (C_out,), read just before the update
    changed: Tensor | None = None  # number of signs that changed in the last interval


@HOOKS.register_module()
class BalanceHook(Hook):
    """Add the reconstruction gradient before each update, and recompute gamma after it.

    It attaches to the optim wrapper's optimizer, where gradients are accumulated, averaged over
    ranks, unscaled and clipped, and where a GradScaler's skipped step does not arrive. Before the
    update ``dL_R/dw`` and ``dL_R/dalpha`` are added to the gradients; after it
    ``gamma_i = flip_i * magnitude_i`` (B.3.150) with the signs of before and after. Gamma starts at 0, also where
    the training starts from another one's weights (``load_from``); it is a buffer of the layer, and so is saved and
    resumed with it. A layer without a gradient in an interval's last update keeps its gamma and its snapshot until
    one comes. With several optimizers each counts its own updates.

    Scalars, every iteration: ``train/rebnn/gamma`` (mean over all channels) and ``train/rebnn/flip_share`` (share of
    all weights that changed sign since the last snapshot, over all layers, each in its optimizer's last interval).

    Args:
        magnitude: ``'weight'`` for ``max_j |w_ij|``, ``'gradient'`` for the paper's
            ``max_j |dL_S/dw_hat_ij|``.
        flip_weighted: Multiply by the flip share; False is the paper's ablation.
        flip_interval: Updates between the two sign snapshots that the flip share compares.
        gamma: A constant instead of the rule; 0 switches the reconstruction term off.
        gamma_min: Lower bound of the computed gamma, or None.
        gamma_max: Upper bound of the computed gamma, or None.
        begin: Updates, or share of the training in [0, 1) when a float, during which gamma stays 0.
        ramp: Length of the linear rise of gamma from 0 to its value behind ``begin``, in the same units; with a
            ``flip_interval`` it rises in steps, as gamma is set at the intervals' ends only.

    Raises:
        ValueError: An option out of range; a model without a trainable ReBNN layer; a second BalanceHook; a training
            that ends before ``begin`` or the first interval; an optimizer that unscales gradients by itself (fused
            under a GradScaler).
    """

    # before LoggerHook (BELOW_NORMAL), which reads what after_train_iter writes
    priority = "NORMAL"

    def __init__(
        self,
        magnitude: str = "weight",
        flip_weighted: bool = True,
        flip_interval: int = 1,
        gamma: float | None = None,
        gamma_min: float | None = None,
        gamma_max: float | None = None,
        begin: int | float = 0,
        ramp: int | float = 0,
    ) -> None:
        if magnitude not in _MAGNITUDES:
            raise UserError(f"BalanceHook: magnitude={magnitude!r} is not one of {_MAGNITUDES}")
        if isinstance(flip_interval, bool) or not isinstance(flip_interval, int) or flip_interval < 1:
            raise UserError(f"BalanceHook: flip_interval={flip_interval!r} must be a whole number of updates >= 1")
        for name, value in (("gamma", gamma), ("gamma_min", gamma_min), ("gamma_max", gamma_max)):
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"BalanceHook: {name}={value!r} must be a finite number >= 0, or None")
        if gamma_min is not None and gamma_max is not None and gamma_min > gamma_max:
            raise UserError(f"BalanceHook: gamma_min={gamma_min} is above gamma_max={gamma_max}")
        if gamma is not None and (gamma_min is not None or gamma_max is not None):
            raise UserError("BalanceHook: a constant gamma takes no bounds; drop gamma_min and gamma_max")
        self.magnitude = magnitude
        self.flip_weighted = flip_weighted
        self.flip_interval = flip_interval
        self.gamma = gamma
        self.bounds = (gamma_min, gamma_max)
        self.onset = Onset(begin, ramp)
        self._balanced: dict[str, _Balanced] = {}
        self._updates: dict[int, int] = {}
        self._share = 0.0  # of the training's iterations, when the current one is done
        self._resumed: dict[str, Any] = {}
        self._handles: list[Any] = []

    def before_train(self, runner) -> None:
        """Find the layers, set their gamma and attach to every optimizer that updates one."""
        refuse_several(self, runner.hooks)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        layers = {
            name: layer
            for name, layer in binary_layers(model).items()
            if getattr(layer, "gamma", None) is not None and layer.weight.requires_grad
        }
        if not layers:
            raise UserError(
                "BalanceHook: the model has no trainable ReBNN layer. Choose one in the config "
                "(conv_cfg=dict(type='ReBNNConv2d'), a ReBNNResNet backbone, or type='Binarized'), unfreeze it, "
                "or remove BalanceHook from custom_hooks"
            )
        self._share = runner.iter / runner.max_iters
        self._balanced, self._updates = {}, {}
        for index, wrapper, updated in layers_by_optimizer("BalanceHook", runner.optim_wrapper, layers):
            mine = {name: _Balanced(layer) for name, layer in updated.items()}
            self._balanced.update(mine)
            self._updates[index] = self._resumed.get("updates", {}).get(index, 0)
            self._check_onset(planned_updates(wrapper, runner.max_iters), runner.max_iters)
            self._handles += [
                wrapper.optimizer.register_step_pre_hook(partial(self._before_update, index, list(mine.values()))),
                wrapper.optimizer.register_step_post_hook(partial(self._after_update, index, list(mine.values()))),
            ]
            onset = self.onset.factor(self._updates[index], self._share)
            for layer in updated.values():
                if self.gamma is not None:
                    layer.gamma.fill_(self.gamma * onset)
                elif not self._resumed:  # another training's, of other weights and another learning rate
                    layer.gamma.zero_()
        self._take_up()

    def _check_onset(self, updates: int, iterations: int) -> None:
        """Refuse a gamma that would stay 0 for all of ``updates`` updates; warn of one that would not rise to its end.

        A constant one is set at the start, too.
        """
        if self.gamma == 0 or (self.gamma is not None and self.onset.factor(0, 0.0) > 0):
            return
        reached = self.onset.check(self.flip_interval, updates, iterations)
        if reached < 1:
            _warn(
                f"BalanceHook: begin={self.onset.begin}, ramp={self.onset.ramp} reach behind the training's end, after "
                f"{updates} updates: gamma rises to {reached:.0%} of its value only"
            )

    def _take_up(self) -> None:
        """Go on with what the checkpoint remembers of the layers; other options start a new interval."""
        changed = self._resumed.get("changed", {})
        same = self._resumed.get("flip_interval", self.flip_interval) == self.flip_interval
        signs = self._resumed.get("signs", {}) if same else {}
        for name, entry in self._balanced.items():
            weight = entry.layer.weight
            if name in signs and signs[name].numel() == math.ceil(weight.numel() / 8):
                entry.signs = unpack(signs[name], weight)
            if name in changed:
                entry.changed = torch.tensor(changed[name], device=weight.device)

    def after_train(self, runner) -> None:
        """Detach from the optimizers; warn if gamma never set in."""
        late = [f"{n} updates" for n in self._updates.values() if self.gamma != 0 and not self._has_set_in(n)]
        if self._balanced and late:
            _warn(
                f"BalanceHook: gamma stayed 0 for the layers of {len(late)} of {len(self._updates)} optimizers, which "
                f"made {', '.join(late)}: begin={self.onset.begin}, flip_interval={self.flip_interval} never came"
            )
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the count of updates, and the sign snapshot when one spans several of them (one bit a weight)."""
        if self._balanced:
            kept = self._balanced if self.flip_interval > 1 else {}
            checkpoint["rebnn_balance"] = dict(
                updates=dict(self._updates),
                flip_interval=self.flip_interval,
                changed={name: int(e.changed) for name, e in self._balanced.items() if e.changed is not None},
                signs={name: pack(e.signs).cpu() for name, e in kept.items() if e.signs is not None},
            )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take both up again; a checkpoint that is only loaded (not resumed) starts afresh."""
        if runner._resume:
            self._resumed = checkpoint.get("rebnn_balance", {})

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Note how far the training is: the optimizer's hooks do not know the runner."""
        self._share = (runner.iter + 1) / runner.max_iters

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Write the two scalars, with one transfer from the device."""
        changed = [entry.changed for entry in self._balanced.values() if entry.changed is not None]
        if not changed:
            return
        weights = sum(entry.layer.weight.numel() for entry in self._balanced.values())
        gammas = torch.cat([entry.layer.gamma.flatten() for entry in self._balanced.values()])
        gamma, flips = torch.stack([gammas.mean(), torch.stack(changed).sum() / weights]).tolist()
        runner.message_hub.update_scalar("train/rebnn/gamma", gamma)
        runner.message_hub.update_scalar("train/rebnn/flip_share", flips)

    def _has_set_in(self, updates: int) -> bool:
        """Whether an optimizer with so many updates, at the current share of the training, has had a gamma above 0."""
        if self.gamma is None and updates < self.flip_interval:
            return False
        return self.onset.factor(updates, self._share) > 0

    @torch.no_grad()
    def _before_update(self, index: int, entries: list[_Balanced], optimizer: Optimizer, args, kwargs) -> None:
        ends_interval = (self._updates[index] + 1) % self.flip_interval == 0
        for entry in entries:
            layer = entry.layer
            weight, alpha, gamma = layer.weight, layer.alpha, layer.gamma
            if entry.signs is None:
                entry.signs = weight >= 0
            entry.magnitude = None
            if weight.grad is None or not weight.requires_grad:  # not reached by this iteration's loss, or frozen
                continue
            if ends_interval and self.gamma is None:
                entry.magnitude = (
                    F.weight_magnitude(weight)
                    if self.magnitude == "weight"
                    else F.gradient_magnitude(weight, weight.grad, alpha)
                )
            if self.gamma == 0:
                continue
            grad_w, grad_alpha = F.reconstruction_grad(weight, alpha, gamma)
            weight.grad.add_(grad_w)
            if alpha.grad is not None:
                alpha.grad.add_(grad_alpha)

    @torch.no_grad()
    def _after_update(self, index: int, entries: list[_Balanced], optimizer: Optimizer, args, kwargs) -> None:
        self._updates[index] += 1
        if self._updates[index] % self.flip_interval:
            return
        onset = self.onset.factor(self._updates[index], self._share)
        for entry in entries:
            layer = entry.layer
            signs = layer.weight >= 0
            entry.changed = (entry.signs != signs).sum()
            if self.gamma is not None:
                layer.gamma.fill_(self.gamma * onset)
            elif entry.magnitude is None:
                continue
            else:
                flips = F.flip_share(entry.signs, signs) if self.flip_weighted else None
                gamma = F.balance_parameter(flips, entry.magnitude, *self.bounds)
                layer.gamma.copy_(gamma.view_as(layer.gamma) * onset)
            entry.signs = signs


def _warn(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)
