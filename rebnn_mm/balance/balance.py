"""The balance parameter gamma, computed around every parameter update (Xu et al., AAAI 2023, B.3.144-152)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rebnn_mm import functional as F
from rebnn_mm.balance.layers import layers_of
from rebnn_mm.balance.rule import BalanceRule
from rebnn_mm.checks import check_whole
from rebnn_mm.errors import UserError, UserTypeError
from rebnn_mm.files.bits import from_bits, to_bits

_ATTACHED: WeakKeyDictionary[Optimizer, WeakSet[Balance]] = WeakKeyDictionary()


@dataclass
class _Balanced:
    """One ReBNN layer and what has to be remembered between two moments of an update."""

    layer: Any  # a layer with weight, alpha and gamma
    signs: Any = None  # Tensor (C_out, ...) bool, at the last snapshot
    magnitude: Tensor | None = None  # (C_out,), read just before the update
    changed: Tensor | None = None  # number of signs that changed in the last interval


class Balance:
    """Add the reconstruction gradient before each update of an optimizer, and recompute gamma after it.

    It attaches to ``optimizer.step()``, so a loop stays as it is: gradients are read where they are accumulated,
    averaged over ranks, unscaled and clipped, and a step that a GradScaler skips does not count. Before the update
    ``dL_R/dw`` and ``dL_R/dalpha`` are added to the gradients; after it ``gamma_i = flip_i * magnitude_i`` (B.3.150)
    with the signs of before and after. Gamma starts at 0. A layer without a gradient in an interval's last update
    keeps its gamma and its snapshot until one comes. Each of several optimizers has a Balance of its own. A layer that
    an earlier Balance of the optimizer holds is taken over, with a warning, as two would add the gradient twice.

    Args:
        optimizer: A torch optimizer that updates the layers' weights.
        layers: A model, or its layers by name or in a list; of them those with a trainable ``weight``, an ``alpha``
            and a ``gamma`` that the optimizer updates.
        total_updates: Updates of the whole training; needed where ``begin`` or ``ramp`` is a share of it. With it a
            training that ends before gamma sets in is refused.
        progress: Gives the share of the training that is done when the current update is; instead of the count of
            updates in ``total_updates``.
        options: The fields of :class:`BalanceRule`: ``magnitude``, ``flip_weighted``, ``flip_interval``, ``gamma``,
            ``gamma_min``, ``gamma_max``, ``begin`` and ``ramp``.

    Raises:
        ValueError: An option out of range; no trainable ReBNN layer that the optimizer updates; a training that ends
            before ``begin`` or the first interval; in ``optimizer.step()``, gradients that come only within it.
        TypeError: ``optimizer`` or ``layers`` is something else; an unknown option.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        layers: nn.Module | Mapping[str, nn.Module] | Iterable[nn.Module],
        *,
        total_updates: int | None = None,
        progress: Callable[[], float] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise UserTypeError(f"Balance: optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer")
        self.rule = BalanceRule(**options)
        self.updates = 0
        check_whole("Balance: total_updates", total_updates, or_none=True)
        self._total = total_updates
        self._progress = progress
        self._check_length()
        self._handles: list[Any] = []
        self._entries = {name: _Balanced(layer) for name, layer in layers_of(optimizer, layers).items()}
        _take_over(optimizer, self)
        self._set_start()
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    @property
    def is_attached(self) -> bool:
        """Whether it acts on the optimizer's updates."""
        return bool(self._handles)

    @property
    def layers(self) -> dict[str, Any]:
        """The layers it balances, by name."""
        return {name: entry.layer for name, entry in self._entries.items()}

    def gamma(self) -> Tensor:
        """Gamma of all channels of all layers, (sum of C_out,), on the layers' device."""
        return torch.cat([entry.layer.gamma.flatten() for entry in self._entries.values()])

    def flips(self) -> Tensor | None:
        """Number of signs that changed in the last interval, over all layers, a scalar tensor; None before its end."""
        changed = [entry.changed for entry in self._entries.values() if entry.changed is not None]
        return torch.stack(changed).sum() if changed else None

    def number_of_weights(self) -> int:
        """Weights of all layers together: what :meth:`flips` is a part of."""
        return sum(entry.layer.weight.numel() for entry in self._entries.values())

    def flip_share(self) -> float:
        """Share of all weights that changed sign in the last interval; 0 before the end of the first."""
        flips = self.flips()
        return 0.0 if flips is None else int(flips) / self.number_of_weights()

    def has_set_in(self) -> bool:
        """Whether gamma can have been above 0 by now."""
        return self.rule.has_set_in(self.updates, self._share())

    def detach(self) -> None:
        """Leave the optimizer: its updates are then the plain ones, and gamma stays as it is."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs: the count of updates, gamma, and the snapshot of signs, one bit a weight.

        The snapshot is there where an interval spans several updates; otherwise the weights themselves hold it.
        """
        kept = self._entries if self.rule.flip_interval > 1 else {}
        return dict(
            updates=self.updates,
            flip_interval=self.rule.flip_interval,
            changed={name: int(e.changed) for name, e in self._entries.items() if e.changed is not None},
            signs={name: to_bits(e.signs).cpu() for name, e in kept.items() if e.signs is not None},
            gamma={name: layer.gamma.detach().cpu().clone() for name, layer in self.layers.items()},
        )

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave; before or after the model's own, as both hold gamma.

        Another ``flip_interval`` than the saved one starts a new interval; other options act from the next time that
        gamma is set.

        Raises:
            ValueError: The state is of other layers, or not one of a Balance.
        """
        _check_state(state, self.layers)
        self.updates = state["updates"]
        signs = state["signs"] if state["flip_interval"] == self.rule.flip_interval else {}
        for name, entry in self._entries.items():
            weight = entry.layer.weight
            entry.signs = entry.changed = entry.magnitude = None
            if name in signs and signs[name].numel() == math.ceil(weight.numel() / 8):
                entry.signs = from_bits(signs[name], weight)
            if name in state["changed"]:
                entry.changed = torch.tensor(state["changed"][name], device=weight.device)
            entry.layer.gamma.copy_(state["gamma"][name])

    def _check_length(self) -> None:
        if self._total is None:
            if self._progress is None and self.rule.needs_length:
                raise UserError(
                    f"Balance: begin={self.rule.begin!r}, ramp={self.rule.ramp!r} are shares of the training; say how "
                    "long it is with total_updates=, or give both in updates, as whole numbers"
                )
        elif text := self.rule.check_length("Balance", self._total, f"{self._total} updates"):
            warnings.warn(text, stacklevel=3)

    def _share(self) -> float:
        """Of the training, when the current update is done; 0 where its length is not known, nor asked for."""
        if self._progress is not None:
            return self._progress()
        return self.updates / self._total if self._total else 0.0

    @torch.no_grad()
    def _set_start(self) -> None:
        """Gamma before an update: the constant one, or 0, as that of another training was of other weights."""
        onset = self.rule.onset.factor(self.updates, self._share())
        for layer in self.layers.values():
            layer.gamma.fill_(0.0 if self.rule.gamma is None else self.rule.gamma * onset)

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        _refuse_late_gradients(optimizer, args, kwargs)
        ends_interval = (self.updates + 1) % self.rule.flip_interval == 0
        for entry in self._entries.values():
            weight = entry.layer.weight
            if entry.signs is None:
                entry.signs = weight >= 0
            entry.magnitude = None
            if ends_interval and self.rule.gamma is None and _learns(weight):
                alpha = entry.layer.alpha.view_as(entry.layer.gamma)
                entry.magnitude = self.rule.magnitude_before(weight, weight.grad, alpha)
        if self.rule.gamma == 0:
            return
        # after all magnitudes: of a weight that layers share, they are to be of the task's gradient alone
        for entry in self._entries.values():
            weight, gamma, learned = entry.layer.weight, entry.layer.gamma, entry.layer.alpha
            if not _learns(weight):
                continue
            grad_w, grad_alpha = F.reconstruction_grad(weight, learned.view_as(gamma), gamma)
            weight.grad.add_(grad_w)
            if learned.grad is not None:
                learned.grad.add_(grad_alpha.view_as(learned.grad))

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        self.updates += 1
        if self.updates % self.rule.flip_interval:
            return
        onset = self.rule.onset.factor(self.updates, self._share())
        for entry in self._entries.values():
            layer = entry.layer
            signs = layer.weight >= 0
            entry.changed = (entry.signs != signs).sum()
            if self.rule.gamma is not None:
                layer.gamma.fill_(self.rule.gamma * onset)
            elif entry.magnitude is None:
                continue
            else:
                gamma = self.rule.next_gamma(entry.signs, signs, entry.magnitude)
                layer.gamma.copy_(gamma.view_as(layer.gamma) * onset)
            entry.signs = signs


def _learns(weight: Any) -> bool:
    """Whether this update moves it: it is not frozen, and the iteration's loss has reached it."""
    return weight.requires_grad and weight.grad is not None


def _take_over(optimizer: Optimizer, new: Balance) -> None:
    """Let ``new`` alone hold its layers at this optimizer; a run that was broken off leaves an earlier one behind."""
    mine = {id(layer) for layer in new.layers.values()}
    for earlier in _ATTACHED.setdefault(optimizer, WeakSet()):
        if earlier.is_attached and (taken := [n for n, layer in earlier.layers.items() if id(layer) in mine]):
            warnings.warn(
                f"Balance: takes over {len(taken)} layers from an earlier Balance of this optimizer", stacklevel=3
            )
            for name in taken:
                del earlier._entries[name]
    _ATTACHED[optimizer].add(new)


def _refuse_late_gradients(optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
    """Gradients must be complete and unscaled before the step: they are read and added to there."""
    name = type(optimizer).__name__
    if any(callable(argument) for argument in (*args[1:], kwargs.get("closure"))):  # args[0] is the optimizer
        raise UserError(
            f"Balance: {name}.step(closure) computes gradients inside the step, after they were to be balanced; call "
            "backward() first and step() without a closure"
        )
    if getattr(optimizer, "found_inf", None) is not None:
        raise UserError(
            f"Balance: {name}(fused=True) unscales gradients inside its step under a GradScaler; set fused=False"
        )


def _check_state(state: Any, layers: dict[str, Any]) -> None:
    keys = {"updates", "flip_interval", "changed", "signs", "gamma"}
    if not isinstance(state, Mapping) or not keys <= set(state):
        raise UserError(f"Balance: this is no state of a Balance, which holds {sorted(keys)}")
    if set(state["gamma"]) != set(layers):
        other = sorted(set(state["gamma"]) ^ set(layers))
        raise UserError(f"Balance: the state is of other layers than these: {', '.join(other[:5])}")
    for name, gamma in state["gamma"].items():
        if gamma.numel() != layers[name].gamma.numel():
            raise UserError(
                f"Balance: the state of {name!r} has {gamma.numel()} channels, the layer {layers[name].gamma.numel()}"
            )
