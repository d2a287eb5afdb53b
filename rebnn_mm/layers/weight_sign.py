"""How a method takes the binary weight from the latent one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rebnn_mm.estimators import CLIPPED, Slope, clipped_sign, straight_sign

_SLOPES: dict[Any, Slope | None] = {clipped_sign: CLIPPED, straight_sign: None}


@dataclass(frozen=True)
class WeightSign:
    """The binary weight ``b = sign(latent)`` with its gradient.

    Attributes:
        latent: What the sign is taken of, as the layer's weight: the weight itself, or a function of it that autograd
            differentiates.
        sign: The sign with its slope: ``clipped_sign``, ``straight_sign`` or an estimator.
        scaled: Whether the gradient has the scale of its channel as a factor: ``dL/dlatent = alpha * dL/dw_hat *
            slope``. Otherwise it is ``dL/dw_hat * slope``, and 0 in channels whose scale is not above 0.
    """

    latent: Tensor
    sign: Callable[[Tensor], Tensor] = clipped_sign
    scaled: bool = True

    def slope(self) -> Slope | None:
        """The sign's slope by itself; None is 1 everywhere."""
        sign: Any = self.sign
        return _SLOPES[sign] if sign in _SLOPES else sign.slope()
