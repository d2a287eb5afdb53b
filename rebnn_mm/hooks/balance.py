"""The balance parameter gamma in mmengine's runner."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from rebnn_mm.balance import Balance, BalanceRule, balanced_layers
from rebnn_mm.errors import UserError
from rebnn_mm.hooks.attach import layers_by_optimizer, planned_updates, refuse_several, unwrapped


@HOOKS.register_module()
class BalanceHook(Hook):
    """Balance the ReBNN layers of the runner's model around every update.

    Each optimizer that updates some has a :class:`rebnn_mm.balance.Balance`, which computes everything; the hook brings
    it the model, the length of the training and the checkpoint. Gamma starts at 0, also where the training starts from
    another one's weights (``load_from``); it is a buffer of the layer, and so is saved and resumed with it. With
    several optimizers each counts its own updates.

    Scalars, every iteration: ``train/rebnn/gamma`` (mean over all channels) and ``train/rebnn/flip_share`` (share of
    all weights that changed sign since the last snapshot, over all layers, each in its optimizer's last interval).

    Args:
        options: Those of :class:`rebnn_mm.balance.BalanceRule`: ``magnitude``, ``flip_weighted``, ``flip_interval``,
            ``gamma``, ``gamma_min``, ``gamma_max``, ``begin``, ``ramp``.

    Raises:
        ValueError: An option out of range; a model without a trainable ReBNN layer; a second BalanceHook; a training
            that ends before ``begin`` or the first interval; an optimizer that unscales gradients by itself (fused
            under a GradScaler).
    """

    # before LoggerHook (BELOW_NORMAL), which reads what after_train_iter writes
    priority = "NORMAL"

    def __init__(self, **options: Any) -> None:
        self.rule = BalanceRule(**options)
        self._balances: dict[int, Balance] = {}  # by the optimizer's place
        self._share = 0.0  # of the training's iterations, when the current one is done
        self._resumed: dict[str, Any] = {}

    def before_train(self, runner) -> None:
        """Find the layers, set their gamma and attach to every optimizer that updates one."""
        refuse_several(self, runner.hooks)
        model = unwrapped(runner.model)
        layers = balanced_layers(model)
        if not layers:
            raise UserError(
                "BalanceHook: the model has no trainable ReBNN layer. Choose one in the config "
                "(conv_cfg=dict(type='ReBNNConv2d'), a ReBNNResNet backbone, or type='Binarized'), unfreeze it, "
                "or remove BalanceHook from custom_hooks"
            )
        self._share = runner.iter / runner.max_iters
        self._balances = {}
        for index, wrapper, mine in layers_by_optimizer("BalanceHook", runner.optim_wrapper, layers):
            updates = planned_updates(wrapper, runner.max_iters)
            length = f"{runner.max_iters} iterations, which are {updates} updates"
            if text := self.rule.check_length("BalanceHook", updates, length):
                _warn(text)
            saved = {name: layer.gamma.clone() for name, layer in mine.items()}
            balance = Balance(wrapper.optimizer, mine, progress=lambda: self._share, **asdict(self.rule))
            self._balances[index] = balance
            if self._resumed:
                balance.load_state_dict(_state_of(self._resumed, index, saved))

    def after_train(self, runner) -> None:
        """Detach from the optimizers; warn if gamma never set in."""
        rule, balances = self.rule, self._balances.values()
        late = [f"{b.updates} updates" for b in balances if rule.gamma != 0 and not b.has_set_in()]
        if late:
            _warn(
                f"BalanceHook: gamma stayed 0 for the layers of {len(late)} of {len(balances)} optimizers, which "
                f"made {', '.join(late)}: begin={rule.begin}, flip_interval={rule.flip_interval} never came"
            )
        for balance in balances:
            balance.detach()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the count of updates, and the sign snapshot when one spans several of them (one bit a weight)."""
        if self._balances:
            checkpoint["rebnn_balance"] = _joined({i: b.state_dict() for i, b in self._balances.items()})

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take both up again; a checkpoint that is only loaded (not resumed) starts afresh."""
        if runner._resume:
            self._resumed = checkpoint.get("rebnn_balance", {})

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Note how far the training is: the optimizer's hooks do not know the runner."""
        self._share = (runner.iter + 1) / runner.max_iters

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Write the two scalars, with one transfer from the device."""
        balances = self._balances.values()
        flips = [flips for balance in balances if (flips := balance.flips()) is not None]
        if not flips:
            return
        weights = sum(balance.number_of_weights() for balance in balances)
        mean_gamma = torch.cat([balance.gamma() for balance in balances]).mean()
        gamma, share = torch.stack([mean_gamma, torch.stack(flips).sum() / weights]).tolist()
        runner.message_hub.update_scalar("train/rebnn/gamma", gamma)
        runner.message_hub.update_scalar("train/rebnn/flip_share", share)


def _joined(states: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The states of all optimizers as a checkpoint keeps them; gamma is in its model already."""
    (interval,) = {state["flip_interval"] for state in states.values()}
    return dict(
        updates={index: state["updates"] for index, state in states.items()},
        flip_interval=interval,
        changed={name: n for state in states.values() for name, n in state["changed"].items()},
        signs={name: bits for state in states.values() for name, bits in state["signs"].items()},
    )


def _state_of(saved: dict[str, Any], index: int, gamma: dict[str, Any]) -> dict[str, Any]:
    """One optimizer's part of a checkpoint, with the gamma that came with the model."""
    return dict(
        updates=saved.get("updates", {}).get(index, 0),
        flip_interval=saved["flip_interval"],
        changed=saved.get("changed", {}),
        signs=saved.get("signs", {}),
        gamma=gamma,
    )


def _warn(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)
