"""Clipped straight-through estimator (Courbariaux et al., "Binarized Neural Networks", 2016).

value  ``sign(x)``
slope  ``1[|x| <= 1]``
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.estimators.slope import Slope
from rebnn_mm.functional import sign
from rebnn_mm.tracing import one_operation


class _ClippedSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        # one byte an element instead of the four that keeping x would cost, and nothing where no gradient is wanted
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(clipped_slope(inputs[0]))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return grad * inside


def clipped_slope(x: Tensor) -> Tensor:
    """``1[|x| <= 1]``, a bool; any shape."""
    return x.abs() <= 1


CLIPPED = Slope(clipped_slope, peak=1.0)


@one_operation
def clipped_sign(x: Tensor) -> Tensor:
    """``sign(x)`` whose slope is 1 on [-1, 1] and 0 elsewhere; any shape."""
    return _ClippedSign.apply(x)


@MODELS.register_module()
class ClippedSTE(nn.Module):
    """:func:`clipped_sign` as a module, for ``estimator=dict(type='ClippedSTE')``."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``: same shape, values in {-1, +1}."""
        return clipped_sign(x)

    def slope(self) -> Slope:
        """What a gradient is multiplied with."""
        return CLIPPED
