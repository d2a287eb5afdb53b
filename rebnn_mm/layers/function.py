"""One autograd function for a 1-bit convolution or linear layer, ``y = scale * op(sign(x), sign(latent)) + bias``.

Composed of torch's operations, such a layer keeps its input for the sign's slope, the sign, and the unscaled result
for the scale's gradient. Here it keeps its input, the latent weight and the scale, and takes the signs again in the
backward, whose closed forms are, with ``G = dL/dw_hat`` (the gradient of a convolution with weight ``w_hat``):

- ``dL/dscale_i = sum_j G_ij b_ij`` (B.3.151-152 without gamma)
- ``dL/dlatent = scale * G * slope(latent)`` (B.3.144 without gamma), or without the scale (ReActNet)
- ``dL/dx = op^T(dL/dy, scale * b) * slope(x)``

Where the native kernels run, on a CPU and in float32, the forward is theirs: both operands are signs and the result
is an integer, so it has the same bits. Other types and devices take torch's operation on the signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rebnn_mm.errors import UserError
from rebnn_mm.estimators import Slope
from rebnn_mm.functional import sign
from rebnn_mm.layers.input_side import keep, signs_of, through_sign
from rebnn_mm.layers.weight_side import scaled_signs, weight_gradients
from rebnn_mm.native import Geometry, kernels


@dataclass(frozen=True)
class Operation:
    """What a layer computes, apart from its tensors.

    Attributes:
        geometry: Of the convolution; None is a linear layer.
        slope: Of the input's sign.
        weight_slope: Of the weight's; None is 1.
        scaled: See :class:`rebnn_mm.layers.weight_sign.WeightSign`.
        dtype: What is computed in: autocast's, or that of input and weight.
        short: Keep a byte for each element of the input, see :mod:`rebnn_mm.layers.kept`.
    """

    geometry: Geometry | None
    slope: Slope
    weight_slope: Slope | None
    scaled: bool
    dtype: torch.dtype
    short: bool = False

    def forward(self, x: Tensor, latent: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        """The layer's result."""
        native = kernels() if x.is_cpu and self.dtype == x.dtype == torch.float32 else None
        if native is not None:
            if self.geometry is None:
                return native.multiply(x, latent, scale, bias)
            return native.convolve(x, latent, scale, bias, self.geometry)
        s, b = sign(x).to(self.dtype), sign(latent).to(self.dtype)
        if self.geometry is None:
            y, shape = functional.linear(s, b), [-1]
        else:
            stride, padding, dilation, groups = self.geometry
            y, shape = functional.conv2d(s, b, None, stride, padding, dilation, groups), [-1, 1, 1]
        if scale is not None:
            y.mul_(scale.to(self.dtype).view(shape))
        return y if bias is None else y.add_(bias.to(self.dtype).view(shape))

    def backward(self, grad: Tensor, s: Tensor, w: Tensor, wanted: tuple[bool, bool]) -> tuple[Any, Any]:
        """Gradients of input and weight of the plain operation, of those that are wanted, else None."""
        if self.geometry is not None:
            stride, padding, dilation, groups = self.geometry
            how = (None, stride, padding, dilation, False, (0, 0), groups, (*wanted, False))
            return torch.ops.aten.convolution_backward(grad, s, w, *how)[:2]
        rows = grad.reshape(-1, grad.shape[-1])
        of_input = (rows @ w).view(*grad.shape[:-1], w.shape[1]) if wanted[0] else None
        return of_input, rows.t() @ s.reshape(-1, s.shape[-1]) if wanted[1] else None


class _BinaryProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, latent: Tensor, scale: Tensor | None, bias: Tensor | None, op: Operation
    ) -> Tensor:
        ctx.op = op
        ctx.set_materialize_grads(False)
        if any(ctx.needs_input_grad[:3]):
            ctx.save_for_backward(keep(x, op.slope, op.short), latent, scale)
        with _without_autocast(x):
            y = op.forward(x, latent, scale, bias)
        # of a view autograd would forbid what follows in place, an activation; nobody else has its memory
        return torch.ops.aten._unsafe_view(y, y.shape) if y._is_view() else y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        needs = ctx.needs_input_grad
        with torch.no_grad(), _without_autocast(grad):
            result: Any = (None, None, None)
            if any(needs[:3]):
                kept, latent, scale = ctx.saved_tensors
                result = _gradients(ctx.op, grad, kept, latent, scale, needs)
            of_bias = _gradient_of_bias(grad, _channels(ctx.op, grad)) if needs[3] else None
        if torch.is_grad_enabled():  # create_graph=True: the gradients may be used, but have none themselves
            return *refuse_second(grad, ctx.saved_tensors, (*result, of_bias)), None
        return *result, of_bias, None


def _channels(op: Operation, y: Tensor) -> int:
    return y.dim() - 1 if op.geometry is None else 1


def _gradient_of_bias(grad: Tensor, channels: int) -> Tensor:
    """(C_out,): the sum over all axes but the channels'."""
    others = [d for d in range(grad.dim()) if d != channels]
    return grad.sum(others) if others else grad  # of one vector; over no axis torch would sum over all


def _gradients(
    op: Operation, grad: Tensor, kept: Tensor, latent: Tensor, scale: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of input, latent weight and scale."""
    of_weight = needs[1] or (needs[2] and scale is not None)
    w = scaled_signs(latent, scale) if needs[0] else latent  # else its shape alone counts
    s = signs_of(kept, op.dtype) if of_weight else kept.to(op.dtype)
    gx, g = op.backward(grad, s, w.to(op.dtype), (needs[0], of_weight))
    if gx is not None:
        gx = through_sign(gx, kept, op.slope, latent.dtype if op.short else kept.dtype)
    if g is None:
        return gx, None, None
    wanted = needs[1], needs[2]
    return gx, *weight_gradients(g.to(latent.dtype), latent, scale, op.weight_slope, op.scaled, wanted)


def refuse_second(grad: Tensor, saved: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> Any:
    """Gradients that depend on ``grad`` and ``saved``, and whose own gradients are refused."""
    return _Once.apply(len(gradients), grad, *saved, *gradients)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, number: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors[-number:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise UserError(
            "a 1-bit layer has no second derivative: its backward is written by hand. Compute the first one within "
            "`with rebnn_mm.layers.composed():` around the forward, which composes the layers of torch's operations"
        )


def _without_autocast(x: Tensor) -> Any:
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def binary_product(x: Tensor, latent: Tensor, scale: Tensor | None, bias: Tensor | None, op: Operation) -> Tensor:
    """A layer's result with the gradients above.

    Args:
        x: (N, C_in, H, W), or (..., C_in) of a linear layer.
        latent: (C_out, C_in/groups, K, K) or (C_out, C_in).
        scale: (C_out, 1, ...), or None for 1.
        bias: (C_out,), or None.
        op: What is computed.
    """
    return _BinaryProduct.apply(x, latent, scale, bias, op)
