"""Error decay estimator of IR-Net (Qin et al., CVPR 2020, section 3.3).

value  ``sign(x)``
slope  ``k t (1 - tanh(t x)^2)`` with ``k = max(1/t, 1)``: the derivative of ``k tanh(t x)``

A small t lets every element learn (the slope is about 1 everywhere), a large one follows the sign closely.
"""

from __future__ import annotations

from functools import partial

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.checks import check_number
from rebnn_mm.estimators.slope import Slope
from rebnn_mm.functional import sign
from rebnn_mm.tracing import one_operation


class _ErrorDecaySign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, t: float) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.t = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * error_decay_slope(x, ctx.t), None


def error_decay_slope(x: Tensor, t: float) -> Tensor:
    """``max(1, t) * (1 - tanh(t x)^2)``; any shape."""
    return max(1.0, t) * (1 - torch.tanh(t * x).square())  # max(1, t) is k t


@one_operation
def error_decay_sign(x: Tensor, t: float) -> Tensor:
    """``sign(x)`` with the slope of ``max(1/t, 1) * tanh(t x)``, ``t > 0``; any shape."""
    return _ErrorDecaySign.apply(x, t)


@MODELS.register_module()
class EDE(nn.Module):
    """:func:`error_decay_sign` as a module, for ``estimator=dict(type='EDE')``.

    Attributes:
        t: Sharpness; :class:`rebnn_mm.hooks.EDEHook` raises it during training. It matters to the
            backward only, so no checkpoint holds it.

    Args:
        t: Its value where no hook sets it; IR-Net starts at 0.1.

    Raises:
        ValueError: ``t`` is not above 0.
    """

    def __init__(self, t: float = 0.1) -> None:
        super().__init__()
        check_number("EDE: t", t, above=0, hint="; IR-Net starts at 0.1 and ends at 10")
        self.t = float(t)

    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``: same shape, values in {-1, +1}."""
        return error_decay_sign(x, self.t)

    def slope(self) -> Slope:
        """What a gradient is multiplied with, with t as it is now."""
        return Slope(partial(error_decay_slope, t=self.t), peak=max(1.0, self.t))
