"""Piecewise-polynomial estimator of Bi-Real Net (Liu et al., ECCV 2018, section 3.3); ReBNN's activations.

value  ``sign(x)``
slope  ``2 - 2|x|`` on ``|x| < 1``, else 0: the derivative of the quadratic through (-1, -1), (0, 0), (1, 1)
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.estimators.slope import Slope
from rebnn_mm.functional import sign
from rebnn_mm.tracing import one_operation


class _PolynomialSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * polynomial_slope(x)


def polynomial_slope(x: Tensor) -> Tensor:
    """``max(0, 2 - 2|x|)``; any shape."""
    return torch.rsub(x.abs(), 2, alpha=2).clamp_min(0)  # one tensor fewer than 2 - 2 * x.abs()


POLYNOMIAL = Slope(polynomial_slope, peak=2.0)


@one_operation
def polynomial_sign(x: Tensor) -> Tensor:
    """``sign(x)`` whose slope is ``max(0, 2 - 2|x|)``; any shape."""
    return _PolynomialSign.apply(x)


@MODELS.register_module()
class PolynomialSTE(nn.Module):
    """:func:`polynomial_sign` as a module, for ``estimator=dict(type='PolynomialSTE')``."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``: same shape, values in {-1, +1}."""
        return polynomial_sign(x)

    def slope(self) -> Slope:
        """What a gradient is multiplied with."""
        return POLYNOMIAL
