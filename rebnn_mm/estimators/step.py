"""Unit step with a clipped straight-through slope: BiBERT's bool function (Qin et al., ICLR 2022, section 3.2).

value  ``1[x >= 0]``
slope  ``1[|x| <= 1]``
"""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.tracing import one_operation


class _ClippedStep(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (x >= 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(inputs[0].abs() <= 1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return grad * inside


@one_operation
def clipped_step(x: Tensor) -> Tensor:
    """``1[x >= 0]``, in {0, 1}, whose slope is 1 on [-1, 1] and 0 elsewhere; any shape."""
    return _ClippedStep.apply(x)
