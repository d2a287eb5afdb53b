"""Bi-Real Net's layers (Liu et al., ECCV 2018).

weight    ``b = sign(w)``, straight-through where ``|w| <= 1``
scale     ``alpha = mean |w|`` of each output channel, a constant in the backward
gradient  ``dL/dw = alpha * dL/dw_hat * 1[|w| <= 1]``, the magnitude-aware gradient (section 3.3)
input     piecewise-polynomial estimator (section 3.3)

The paper drops alpha after training, where the batch norm behind takes it over; here it stays the scale
of the packed layer, which computes the same.
"""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.functional import scale_init
from rebnn_mm.layers.base import BinaryBase, BinaryConv2d, BinaryLinear


class _BiReal(BinaryBase):
    def _scale(self) -> Tensor:
        return scale_init(self.weight.detach())


@MODELS.register_module()
class BiRealConv2d(_BiReal, BinaryConv2d, nn.Conv2d):
    """Bi-Real Net's 1-bit ``nn.Conv2d``; options as :class:`BinaryConv2d`, estimator ``PolynomialSTE``."""


@MODELS.register_module()
class BiRealLinear(_BiReal, BinaryLinear, nn.Linear):
    """Bi-Real Net's 1-bit ``nn.Linear``; options as :class:`BinaryLinear`."""
