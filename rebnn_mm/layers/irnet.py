"""IR-Net's layers (Qin et al., CVPR 2020): Libra parameter binarization and the error decay estimator.

weight    ``w_std = (w - mean) / std`` of each output channel (section 3.2), ``b = sign(w_std)``
scale     ``2^s`` with ``s = round(log2(mean |w_std|))`` (section 3.2): a bit shift, a constant in the backward
gradient  ``dL/dw_std = 2^s * dL/dw_hat * k t (1 - tanh(t w_std)^2)`` and from there through mean and std
input     the same estimator, :class:`rebnn_mm.estimators.EDE`

:class:`rebnn_mm.hooks.EDEHook` sharpens the estimator during training; without it the slope stays where a
training starts. Other methods' signs follow ``w``, this one's ``w - mean``: a checkpoint of real-valued
weights loads all the same.
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.estimators import EDE
from rebnn_mm.functional import scale_init, standardize
from rebnn_mm.layers.base import BinaryBase, BinaryConv2d, BinaryLinear
from rebnn_mm.layers.weight_sign import WeightSign


class _IRNet(BinaryBase):
    default_estimator = "EDE"
    clips_weight = False

    def _init_method(self) -> None:
        self._check_several_weights()
        # beside the input's estimator, which the user may exchange
        self.weight_estimator = EDE()

    def _weight_sign(self) -> WeightSign:
        return WeightSign(standardize(self.weight), self.weight_estimator)

    def _scale(self) -> Tensor:
        return torch.exp2(scale_init(standardize(self.weight.detach())).log2().round())


@MODELS.register_module()
class IRNetConv2d(_IRNet, BinaryConv2d, nn.Conv2d):
    """IR-Net's 1-bit ``nn.Conv2d``; options as :class:`BinaryConv2d`, estimator ``EDE``.

    Raises:
        ValueError: As :class:`BinaryConv2d`, and for a single weight in each output channel.
    """


@MODELS.register_module()
class IRNetLinear(_IRNet, BinaryLinear, nn.Linear):
    """IR-Net's 1-bit ``nn.Linear``; options as :class:`BinaryLinear`."""
