"""The sign with slope 1 everywhere: ReCU clamps in front of it, which decides what has a gradient (ICCV 2021).

value  ``sign(x)``
slope  ``1``
"""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.functional import sign
from rebnn_mm.tracing import one_operation


class _StraightSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept: the slope is 1."""

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


@one_operation
def straight_sign(x: Tensor) -> Tensor:
    """``sign(x)`` with slope 1 everywhere; any shape."""
    return _StraightSign.apply(x)
