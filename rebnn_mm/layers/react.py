"""ReActNet's layers (Liu et al., ECCV 2020), the baseline that ReBNN builds on.

weight    ``b = sign(w)``
scale     ``alpha = mean |w|`` of each output channel, a constant in the backward
gradient  ``dL/dw = dL/dw_hat * 1[|w| <= 1]``: the authors' code passes the gradient of ``alpha * b``
          straight to w, without the alpha of Bi-Real Net's magnitude-aware gradient
input     piecewise-polynomial estimator

The paper's RSign and RPReLU stand around the layer, in :mod:`rebnn_mm.backbones.blocks`.
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.estimators import clipped_sign
from rebnn_mm.functional import scale_init
from rebnn_mm.layers.base import BinaryBase, BinaryConv2d, BinaryLinear
from rebnn_mm.tracing import one_operation


class _GradientOfScaled(torch.autograd.Function):
    """The identity; its backward turns ``dL/db = alpha * dL/dw_hat`` into ``dL/dw_hat``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(b: Tensor, alpha: Tensor) -> Tensor:
        return b.view_as(b)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (alpha,) = ctx.saved_tensors
        # a channel whose weights are all 0 gives nothing and learns nothing
        return torch.where(alpha > 0, grad / alpha, torch.zeros_like(grad)), None


@one_operation
def gradient_of_scaled(b: Tensor, alpha: Tensor) -> Tensor:
    """``b`` with the gradient of ``alpha * b``; alpha is (C_out, 1, ...)."""
    return _GradientOfScaled.apply(b, alpha)


class _ReAct(BinaryBase):
    def _signs(self) -> Tensor:
        return gradient_of_scaled(clipped_sign(self.weight), self._scale())

    def _scale(self) -> Tensor:
        return scale_init(self.weight.detach())


@MODELS.register_module()
class ReActConv2d(_ReAct, BinaryConv2d, nn.Conv2d):
    """ReActNet's 1-bit ``nn.Conv2d``; options as :class:`BinaryConv2d`, estimator ``PolynomialSTE``."""


@MODELS.register_module()
class ReActLinear(_ReAct, BinaryLinear, nn.Linear):
    """ReActNet's 1-bit ``nn.Linear``; options as :class:`BinaryLinear`."""
