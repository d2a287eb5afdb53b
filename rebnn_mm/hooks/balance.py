"""The balance parameter gamma, computed around every parameter update (Xu et al., AAAI 2023, B.3.144-152)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor
from torch.optim import Optimizer

from rebnn_mm import functional as F
from rebnn_mm.errors import UserError
from rebnn_mm.files.bits import pack, unpack
from rebnn_mm.hooks.attach import layers_by_optimizer
from rebnn_mm.hooks.onset import Onset
from rebnn_mm.layers import binary_layers

_MAGNITUDES = ("weight", "gradient")


@dataclass
class _Balanced:
    """One ReBNN layer and what has to be remembered between two moments of an update."""

    layer: Any  # a layer with weight, alpha and gamma
    signs: Any = None  # Tensor (C_out, ...) bool, at the last snapshot
    magnitude: Tensor | None = None  # (C_out,), read just before the update


@HOOKS.register_module()
class BalanceHook(Hook):
    """Add the reconstruction gradient before each update, and recompute gamma after it.

    It attaches to the optim wrapper's optimizer, where gradients are accumulated, averaged over
    ranks, unscaled and clipped, and where a GradScaler's skipped step does not arrive. Before the
    update ``dL_R/dw`` and ``dL_R/dalpha`` are added to the gradients; after it
    ``gamma_i = flip_i * magnitude_i`` (B.3.150) with the signs of before and after. Gamma starts at 0,
    is a buffer of the layer, and so is saved and resumed with it.

    Scalars, every iteration: ``train/rebnn/gamma`` (mean over all channels) and
    ``train/rebnn/flip_share`` (share of all weights that changed sign since the last snapshot).

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
        ValueError: An option out of range; a model without a trainable ReBNN layer; a training that
            ends before ``begin``; an optimizer that unscales gradients by itself (fused under a GradScaler).
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
        self._flips: Tensor | None = None

    def before_train(self, runner) -> None:
        """Find the layers and attach to every optimizer that updates one."""
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
        if self.onset.begin >= runner.max_iters:
            raise UserError(
                f"BalanceHook: begin={self.onset.begin} updates, but the training ends after {runner.max_iters} "
                "iterations: gamma would stay 0. Begin earlier, or say so with gamma=0"
            )
        self._share = runner.iter / runner.max_iters
        self._balanced = {}
        for index, optimizer, updated in layers_by_optimizer("BalanceHook", runner.optim_wrapper, layers):
            mine = {name: _Balanced(layer) for name, layer in updated.items()}
            self._balanced.update(mine)
            self._updates[index] = self._resumed.get("updates", {}).get(index, 0)
            self._handles += [
                optimizer.register_step_pre_hook(partial(self._before_update, index, list(mine.values()))),
                optimizer.register_step_post_hook(partial(self._after_update, index, list(mine.values()))),
            ]
            if self.gamma is not None:
                for layer in updated.values():
                    layer.gamma.fill_(self.gamma * self.onset.factor(self._updates[index], self._share))
        for name, entry in self._balanced.items():
            packed = self._resumed.get("signs", {}).get(name)
            if packed is not None:
                entry.signs = unpack(packed, entry.layer.weight)

    def after_train(self, runner) -> None:
        """Detach from the optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the count of updates, and the sign snapshot when one spans several of them (one bit a weight)."""
        if self._balanced:
            kept = self._balanced if self.flip_interval > 1 else {}
            checkpoint["rebnn_balance"] = dict(
                updates=dict(self._updates),
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
        if self._flips is None:
            return
        gammas = torch.cat([entry.layer.gamma.flatten() for entry in self._balanced.values()])
        gamma, flips = torch.stack([gammas.mean(), self._flips]).tolist()
        runner.message_hub.update_scalar("train/rebnn/gamma", gamma)
        runner.message_hub.update_scalar("train/rebnn/flip_share", flips)

    @torch.no_grad()
    def _before_update(self, index: int, entries: list[_Balanced], optimizer: Optimizer, args, kwargs) -> None:
        ends_interval = (self._updates[index] + 1) % self.flip_interval == 0
        for entry in entries:
            layer = entry.layer
            weight, alpha, gamma = layer.weight, layer.alpha, layer.gamma
            if entry.signs is None:
                entry.signs = weight >= 0
            if weight.grad is None:  # not reached by this iteration's loss
                entry.magnitude = None
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
        changed, total = [], 0
        for entry in entries:
            layer = entry.layer
            signs = layer.weight >= 0
            flips = F.flip_share(entry.signs, signs)
            entry.signs = signs
            changed.append(flips.sum() * layer.weight[0].numel())
            total += layer.weight.numel()
            if self.gamma is not None:
                layer.gamma.fill_(self.gamma * onset)
            elif entry.magnitude is not None:
                gamma = F.balance_parameter(flips if self.flip_weighted else None, entry.magnitude, *self.bounds)
                layer.gamma.copy_(gamma.view_as(layer.gamma) * onset)
        self._flips = torch.stack(changed).sum() / total
