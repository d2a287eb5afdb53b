"""One layer's row of the oscillation record, measured around an update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rebnn_mm import functional as F
from rebnn_mm.files.oscillation import BINS
from rebnn_mm.hooks.sign_history import SignHistory

_SPAN = 4  # a histogram reaches to four times the mean |w|: 3.2 standard deviations of a normal distribution


class LayerWatch:
    """Counts and norms of one layer; all results are tensors on its device, so that nothing waits for it.

    Args:
        name: The layer's dotted name.
        layer: A layer with ``weight`` and ``binary_weight()``; with ``alpha`` and ``gamma`` they are recorded, too.
        band: As OscillationHook's.
    """

    def __init__(self, name: str, layer: Any, band: float) -> None:
        self.name = name
        self.layer = layer
        self.band = band
        self.history = SignHistory(self._signs())
        self.update_flips: Tensor | None = None
        self.update: list[Tensor] | None = None

    def read_update(self) -> None:
        """Just before an update: scales and the norms of the two gradients, the task's still alone in ``grad``."""
        weight, alpha, gamma = self.layer.weight, _tensor(self.layer, "alpha"), _tensor(self.layer, "gamma")
        nan = torch.full((), torch.nan, device=weight.device)
        norm = nan
        if alpha is not None and gamma is not None and weight.grad is not None:
            norm = torch.linalg.vector_norm(F.reconstruction_grad(weight, alpha.view_as(gamma), gamma)[0])
        task = nan if weight.grad is None else torch.linalg.vector_norm(weight.grad)
        self.update = [*self._scales(), task, norm]

    def count_update_flips(self) -> None:
        """Just after an update; the first one behind a snapshot counts."""
        if self.update_flips is None:
            self.update_flips = self.history.flips(self._signs())

    @property
    def is_untouched(self) -> bool:
        """Whether no update has come since the last snapshot."""
        return self.update_flips is None

    def snapshot(self) -> Tensor:
        """After an update: the layer's values in the order of ``COLUMNS``, (columns,) float32.

        A layer that no optimizer has updated since the last snapshot has no gradients and no flips.
        """
        weight = self.layer.weight
        signs = self._signs()
        size = weight.abs().flatten(1)
        in_band = (size < self.band * size.mean()).sum()
        flips, flips_back = self.history.snapshot(signs)
        update_flips = torch.zeros_like(flips) if self.update_flips is None else self.update_flips
        shares = [flips, flips_back, update_flips, in_band, (size > 1).sum()]
        signs = signs.flatten(1)
        dead = signs.all(dim=1) | ~signs.any(dim=1)
        if self.layer.clips_weight:
            dead = dead | (size > 1).all(dim=1)
        nan = torch.full((), torch.nan, device=weight.device)
        update = [*self._scales(), nan, nan] if self.update is None else self.update
        values = [*(share / weight.numel() for share in shares), dead.float().mean(), *update]
        self._forget_update()
        return torch.stack([value.float() for value in values])

    def histogram(self, first_channel: bool = False) -> tuple[Tensor, Tensor]:
        """(limit, counts): ``BINS`` equal bins over [-limit, limit]; weights beyond are in none."""
        weight = self.layer.weight[:1] if first_channel else self.layer.weight
        limit = (_SPAN * weight.abs().mean()).clamp_min(torch.finfo(torch.float32).tiny)
        return limit, torch.histc((weight / limit).float(), BINS, -1, 1)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        update = None if self.update is None else torch.stack([value.float() for value in self.update]).cpu()
        flips = None if self.update_flips is None else self.update_flips.cpu()
        return dict(history=self.history.state(), update_flips=flips, update=update)

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`.

        Raises:
            ValueError: It is of a layer with another number of weights.
        """
        device = self.layer.weight.device
        self.history.load(state["history"])
        flips, update = state["update_flips"], state.get("update")
        self.update_flips = None if flips is None else flips.to(device)
        self.update = None if update is None else list(update.to(device))

    def _forget_update(self) -> None:
        self.update_flips, self.update = None, None

    def _scales(self) -> list[Tensor]:
        """Mean and largest gamma, and mean alpha; NaN for a layer without them."""
        alpha, gamma = _tensor(self.layer, "alpha"), _tensor(self.layer, "gamma")
        nan = torch.full((), torch.nan, device=self.layer.weight.device)
        gammas = [nan, nan] if gamma is None else [gamma.mean(), gamma.amax()]
        return [*gammas, nan if alpha is None else alpha.mean()]

    def _signs(self) -> Tensor:
        return self.layer.binary_weight() >= 0


def _tensor(layer: Any, name: str) -> Tensor | None:
    value = getattr(layer, name, None)
    return value.detach() if isinstance(value, Tensor) else None
