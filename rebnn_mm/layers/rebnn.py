"""ReBNN's convolution and linear layer (Xu et al., AAAI 2023).

weight    ``b = sign(w)``, straight-through where ``|w| <= 1`` (B.3.144)
scale     ``alpha``, learned (B.3.151-152)

The layer holds ``alpha`` and ``gamma`` and knows nothing of time:
:class:`rebnn_mm.balance.Balance` computes gamma and adds the gradient of the reconstruction term.
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
        self.register_buffer("gamma", None if self.alpha is None else self._zero_gamma())

    def _zero_gamma(self) -> Tensor:
        return self._beside_weight(torch.zeros_like(self._tensor("alpha").detach()))

    def reset_parameters(self) -> None:
        """Initialise all parameters as the constructor does, and gamma to 0."""
        super().reset_parameters()
        if getattr(self, "gamma", None) is not None:  # the constructor calls this before gamma exists
            self.gamma.zero_()

    def _added_tensors(self) -> tuple[str, ...]:
        return ("alpha", "gamma")

    def _start_from_real_weights(self, assign: bool) -> None:
        """Start gamma at 0 where a checkpoint brings no alpha: it is of another method, or real-valued."""
        super()._start_from_real_weights(assign)
        if assign:
            self.gamma = self._zero_gamma()
        else:
            self.gamma.zero_()


@MODELS.register_module()
class ReBNNConv2d(_ReBNN, BinaryConv2d, nn.Conv2d):
    """ReBNN's 1-bit ``nn.Conv2d``; options as :class:`BinaryConv2d`, estimator ``PolynomialSTE``.

    With ``activation_only=True`` (stage one) it has neither alpha nor gamma.
    """


@MODELS.register_module()
class ReBNNLinear(_ReBNN, BinaryLinear, nn.Linear):
    """ReBNN's 1-bit ``nn.Linear``; options as :class:`BinaryLinear`."""
