"""ReCU's layers (Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural Networks", ICCV 2021).

weight    ``w_std = 2 sqrt(2) * (w - mean) / sqrt(var + 1e-5)`` of each output channel, ``b = sign(ReCU(w_std))``
          with ``ReCU(x) = clamp(x, -Q, Q)`` and ``Q = -mean |w_std| * ln(2 - 2 tau)``, the tau-quantile of a
          Laplace distribution with the layer's ``mean |w_std|``
scale     ``alpha``, learned
gradient  straight through the sign, 0 where the unit clamps, and from there through mean and variance
input     piecewise-polynomial estimator

:class:`rebnn_mm.hooks.ReCUHook` moves tau during training; without it tau stays at 0.85, where a training
starts. The clamp keeps every sign, so tau matters to training only.

Differences to the authors' code: alpha starts at ``mean |w|``, theirs at random; theirs also divides each
image's input by its standard deviation while training, which changes the slope of the input's sign and not its value.
"""

from __future__ import annotations

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.estimators import straight_sign
from rebnn_mm.layers.base import BinaryConv2d, BinaryLinear
from rebnn_mm.layers.learned_scale import LearnedScale
from rebnn_mm.layers.weight_sign import WeightSign
from rebnn_mm.tracing import one_operation


def rectified_clamp(w: Tensor, tau: float) -> Tensor:
    """``clamp(w, -Q, Q)`` with ``Q = -mean |w| * ln(2 - 2 tau)``, a constant in the backward; any shape.

    Args:
        w: Weights around zero.
        tau: Above 0.5 and below 1; the share of weights that lie below Q.
    """
    bound = -w.detach().abs().mean() * math.log(2 - 2 * tau)
    return torch.clamp(w, -bound, bound)


@one_operation
def laplace_standardize(w: Tensor) -> Tensor:
    """``w_std``: each output channel with mean 0 and a standard deviation of nearly ``2 sqrt(2)``; as ``w``."""
    variance, mean = torch.var_mean(w, dim=tuple(range(1, w.dim())), keepdim=True)
    return (w - mean) * (2 * math.sqrt(2) / (variance + 1e-5).sqrt())


class ReCULayer(LearnedScale):
    """What the convolution and the linear layer share.

    Attributes:
        tau: The clamp's quantile; 0.85 unless :class:`rebnn_mm.hooks.ReCUHook` sets it.
    """

    tau: float = 0.85
    clips_weight = False

    def _init_method(self) -> None:
        super()._init_method()
        self._check_several_weights()

    def _weight_sign(self) -> WeightSign:
        return WeightSign(rectified_clamp(laplace_standardize(self.weight), self.tau), straight_sign)


@MODELS.register_module()
class ReCUConv2d(ReCULayer, BinaryConv2d, nn.Conv2d):
    """ReCU's 1-bit ``nn.Conv2d``; options as :class:`BinaryConv2d`, estimator ``PolynomialSTE``.

    Raises:
        ValueError: As :class:`BinaryConv2d`, and for a single weight in each output channel.
    """


@MODELS.register_module()
class ReCULinear(ReCULayer, BinaryLinear, nn.Linear):
    """ReCU's 1-bit ``nn.Linear``; options as :class:`BinaryLinear`."""
