"""The first binary network (Courbariaux et al., "Binarized Neural Networks", 2016): signs, no scale.

weight    ``b = sign(w)``, straight-through where ``|w| <= 1`` (section 1)
input     the same estimator
scale     none; a batch norm behind has to bring the result to size

The paper also clips latent weights to [-1, 1] after each update. Here they may leave the interval, and
have no slope outside, so that every method runs with the same optimizer and hooks.
"""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.layers.base import BinaryBase, BinaryConv2d, BinaryLinear


class _Sign(BinaryBase):
    default_estimator = "ClippedSTE"


@MODELS.register_module()
class SignConv2d(_Sign, BinaryConv2d, nn.Conv2d):
    """BNN's 1-bit ``nn.Conv2d``; options as :class:`BinaryConv2d`, estimator ``ClippedSTE``."""


@MODELS.register_module()
class SignLinear(_Sign, BinaryLinear, nn.Linear):
    """BNN's 1-bit ``nn.Linear``; options as :class:`BinaryLinear`."""
