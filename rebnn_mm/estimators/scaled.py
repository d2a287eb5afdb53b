"""ReActNet's gradient of a scaled sign (Liu et al., ECCV 2020): that of ``alpha * b`` goes straight to ``b``."""

from __future__ import annotations

import torch
from torch import Tensor

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
