"""ReBNN's convolution and linear layer (Xu et al., AAAI 2023).

weight    ``b = sign(w)``, straight-through where ``|w| <= 1`` (B.3.144)
scale     ``alpha``, learned (B.3.151-152)

The layer holds ``alpha`` and ``gamma`` and knows nothing of time:
:class:`rebnn_mm.hooks.BalanceHook` computes gamma and adds the gradient of the reconstruction term.
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.layers.base import BinaryConv2d, BinaryLinear
from rebnn_mm.layers.learned_scale import LearnedScale


class _ReBNN(LearnedScale):
    """Adds ``gamma``, (C_out, 1, ...), the balance parameter; it starts at 0."""

    gamma: Tensor | None

    def _init_method(self) -> None:
        super()._init_method()
        self.register_buffer("gamma", None if self.alpha is None else torch.zeros_like(self.alpha.detach()))

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Start gamma at 0 where a checkpoint brings no alpha: it is of another method, or real-valued."""
        weight = state_dict.get(f"{prefix}weight")
        if self.gamma is not None and weight is not None and f"{prefix}alpha" not in state_dict:
            state_dict[f"{prefix}gamma"] = weight.new_zeros(self.gamma.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class ReBNNConv2d(_ReBNN, BinaryConv2d, nn.Conv2d):
    """ReBNN's 1-bit ``nn.Conv2d``; options as :class:`BinaryConv2d`, estimator ``PolynomialSTE``.

    With ``activation_only=True`` (stage one) it has neither alpha nor gamma.
    """


@MODELS.register_module()
class ReBNNLinear(_ReBNN, BinaryLinear, nn.Linear):
    """ReBNN's 1-bit ``nn.Linear``; options as :class:`BinaryLinear`."""
