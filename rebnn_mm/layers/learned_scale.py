"""A learnable scale of each output channel, ``alpha``, which starts from the weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rebnn_mm.functional import scale_init
from rebnn_mm.layers.base import BinaryBase


class LearnedScale(BinaryBase):
    """Adds ``alpha``, (C_out, 1, ...), initialised to the mean of ``|w|`` of its channel."""

    alpha: nn.Parameter | None

    def _init_method(self) -> None:
        if self.binarizes_weight:
            self.alpha = nn.Parameter(scale_init(self.weight.detach()))
        else:
            self.register_parameter("alpha", None)
        # Frameworks initialise `weight` long after the constructor, so alpha is taken from it
        # at the first forward, unless a checkpoint brings one.
        self._alpha_pending = self.binarizes_weight

    def _scale(self) -> Tensor | None:
        if self._alpha_pending:
            self.reset_alpha()
            self._alpha_pending = False
        return self.alpha

    @torch.no_grad()
    def reset_alpha(self) -> None:
        """Set alpha to the mean of ``|w|`` of each output channel, as training starts from it."""
        if self.alpha is not None:
            self.alpha.copy_(scale_init(self.weight))

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        if self._alpha_pending:
            self.reset_alpha()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Accept a checkpoint of real-valued weights (stage one, ImageNet): alpha comes from them."""
        weight = state_dict.get(f"{prefix}weight")
        if self.alpha is not None and weight is not None:
            state_dict.setdefault(f"{prefix}alpha", scale_init(weight))
            self._alpha_pending = False
        super()._load_from_state_dict(state_dict, prefix, *args)
