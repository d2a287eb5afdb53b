"""ReActNet's layers (Liu et al., ECCV 2020), the baseline that ReBNN builds on.

weight    ``b = sign(w)``
scale     ``alpha = mean |w|`` of each output channel, a constant in the backward
gradient  ``dL/dw = dL/dw_hat * 1[|w| <= 1]``: the authors' code passes the gradient of ``alpha * b``
          straight to w, without the alpha of Bi-Real Net's magnitude-aware gradient
input     piecewise-polynomial estimator

The paper's RSign and RPReLU stand around the layer, in :mod:`rebnn_mm.backbones.blocks`.
"""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.functional import scale_init
from rebnn_mm.layers.base import BinaryBase, BinaryConv2d, BinaryLinear
from rebnn_mm.layers.weight_sign import WeightSign


class _ReAct(BinaryBase):
    def _weight_sign(self) -> WeightSign:
        return WeightSign(self.weight, scaled=False)

    def _scale(self) -> Tensor:
        return scale_init(self.weight.detach())


@MODELS.register_module()
class ReActConv2d(_ReAct, BinaryConv2d, nn.Conv2d):
    """ReActNet's 1-bit ``nn.Conv2d``; options as :class:`BinaryConv2d`, estimator ``PolynomialSTE``."""


@MODELS.register_module()
class ReActLinear(_ReAct, BinaryLinear, nn.Linear):
    """ReActNet's 1-bit ``nn.Linear``; options as :class:`BinaryLinear`."""
