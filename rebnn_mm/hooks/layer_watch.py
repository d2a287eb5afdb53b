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
        nan = torch.full((), torch.nan, device=layer.weight.device)
        self.update_flips = nan
        self.update = [nan] * 5

    def read_update(self) -> None:
        """Just before an update: scales and the norms of the two gradients, the task's still alone in ``grad``."""
        weight, alpha, gamma = self.layer.weight, _tensor(self.layer, "alpha"), _tensor(self.layer, "gamma")
        nan = torch.full((), torch.nan, device=weight.device)
        task = nan if weight.grad is None else torch.linalg.vector_norm(weight.grad)
        gammas = [nan, nan] if gamma is None else [gamma.mean(), gamma.amax()]
        alpha_mean = nan if alpha is None else alpha.mean()
        norm = nan
        if alpha is not None and gamma is not None and weight.grad is not None:
            norm = torch.linalg.vector_norm(F.reconstruction_grad(weight, alpha, gamma)[0])
        self.update = [*gammas, alpha_mean, task, norm]

    def count_update_flips(self) -> None:
        """Just after the first update behind a snapshot."""
        self.update_flips = self.history.flips(self._signs())

    def snapshot(self) -> Tensor:
        """Just after an update: the layer's values in the order of ``COLUMNS``, (columns,) float32."""
        weight = self.layer.weight
        signs = self._signs()
        size = weight.abs().flatten(1)
        in_band = (size < self.band * size.mean()).sum()
        shares = [*self.history.snapshot(signs), self.update_flips, in_band, (size > 1).sum()]
        signs = signs.flatten(1)
        dead = signs.all(dim=1) | ~signs.any(dim=1) | (size > 1).all(dim=1)
        values = [*(share / weight.numel() for share in shares), dead.float().mean(), *self.update]
        return torch.stack([value.float() for value in values])

    def histogram(self, first_channel: bool = False) -> tuple[Tensor, Tensor]:
        """(limit, counts): ``BINS`` equal bins over [-limit, limit]; weights beyond are in none."""
        weight = self.layer.weight[:1] if first_channel else self.layer.weight
        limit = (_SPAN * weight.abs().mean()).clamp_min(torch.finfo(torch.float32).tiny)
        return limit, torch.histc((weight / limit).float(), BINS, -1, 1)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(history=self.history.state(), update_flips=self.update_flips.cpu())

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.history.load(state["history"])
        self.update_flips = state["update_flips"].to(self.layer.weight.device)

    def _signs(self) -> Tensor:
        return self.layer.binary_weight() >= 0


def _tensor(layer: Any, name: str) -> Tensor | None:
    value = getattr(layer, name, None)
    return value.detach() if isinstance(value, Tensor) else None
