"""A whole 1-bit unit as one autograd function: shift, convolution, batch norm, shortcut, activation.

    c = conv(sign(x + shift), b);  z = norm(scale * c) + shortcut + before;  out = (z > 0 ? z : z * slope) + after

Layer by layer a unit keeps three maps of floats for its backward: the input of convolution, norm and activation. Here
it keeps its input and the integers ``c``, in 16 bits, which determine the rest: z is computed again. With
``keep='code'`` it keeps a byte for each element of the input, as :mod:`rebnn_mm.layers.kept` has it, and a byte for
each z: its sign, exactly, and its magnitude to within 1/16 between 2^-8 and 240 and as the nearer of the two beyond,
which only the gradient of ``slope`` is made of.

The steps run through native kernels, on a CPU and in float32; elsewhere a unit runs layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm import native
from rebnn_mm.layers.function import Operation, refuse_second
from rebnn_mm.layers.weight_side import scaled_signs, weight_gradients


@dataclass(frozen=True)
class UnitOperation:
    """What a unit computes, apart from its tensors.

    Attributes:
        conv: Its convolution.
        polynomial: Its estimator: the polynomial or the clipped one.
        norm: Its batch norm, whose running statistics the forward updates.
    """

    conv: Operation
    polynomial: bool
    norm: nn.BatchNorm2d


@dataclass(frozen=True)
class Statistics:
    """Of the norm of each channel, (C,) in float64.

    Attributes:
        mean: Of the norm's input, the scaled integers.
        step: ``1 / sqrt(variance + eps)`` of them.
        count: Integers that both were taken of; 0 where they are the running ones, and constants.
    """

    mean: Tensor
    step: Tensor
    count: int


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shortcut: Tensor | None, latent: Tensor, scale: Tensor | None, shift: Tensor | None,
        weight: Tensor, bias: Tensor, before: Tensor | None, slope: Tensor | None, after: Tensor | None,
        op: UnitOperation,
    ) -> Tensor:  # fmt: skip
        kernels = _kernels()
        assert op.conv.geometry is not None, "a unit has a convolution"
        values = kernels.convolve(x, latent, None, None, op.conv.geometry, shift)
        counts, out = torch.empty_like(values, dtype=torch.int16), torch.empty_like(values)
        sums = torch.zeros(2, values.shape[1], dtype=torch.float64)
        kernels.unit(native.COUNTS, values, values=values, counts_out=counts, sums=sums)
        alpha = torch.ones((), dtype=torch.float64) if scale is None else scale.flatten().double()
        of = _statistics(op.norm, sums, alpha, values.numel() // values.shape[1])
        factor = weight.double() * of.step
        offset = bias.double() - factor * of.mean
        factor = (factor * alpha).float()
        offset = (offset if before is None else offset + before.double()).float()
        residual: Tensor | None = x if shortcut is None else shortcut
        code = torch.empty_like(values, dtype=torch.uint8) if op.conv.short else None
        kernels.unit(
            native.FORWARD, values, counts=counts, scale=factor, offset=offset, shortcut=residual, slope=slope,
            after=after, code_out=code, out=out,
        )  # fmt: skip
        kept = x
        if op.conv.short:
            kept = torch.empty_like(x, dtype=torch.uint8)
            kernels.unit(native.ENCODE, x, op.polynomial, values=x, offset=shift, code_out=kept)
            residual = None
        ctx.op, ctx.of, ctx.identity = op, of, shortcut is None
        ctx.save_for_backward(
            kept, None if shortcut is None else residual, counts, code, latent, scale, shift, weight, slope,
            factor, offset,
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = _backward(ctx, grad.contiguous())
        if torch.is_grad_enabled():
            return *refuse_second(grad, ctx.saved_tensors, gradients), None
        return *gradients, None


def _kernels() -> native.Kernels:
    kernels = native.kernels()
    assert kernels is not None, "asked for before a unit runs as one"
    return kernels


def _statistics(norm: nn.BatchNorm2d, sums: Tensor, alpha: Tensor, count: int) -> Statistics:
    """Those of the batch, which move the running ones, or the running ones."""
    assert norm.running_mean is not None and norm.running_var is not None, "a unit has a norm with statistics"
    if not norm.training:
        return Statistics(norm.running_mean.double(), (norm.running_var.double() + norm.eps).rsqrt(), 0)
    mean = sums[0] / count  # sums of integers are exact
    variance = (sums[1] / count - mean.square()).clamp_min(0) * alpha.square()
    mean = mean * alpha
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        momentum = 1.0 / float(norm.num_batches_tracked) if momentum is None else momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum or 0.0)
    unbiased = variance * (count / (count - 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum or 0.0)
    return Statistics(mean, (variance + norm.eps).rsqrt(), count)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    kernels, op, of, needs = _kernels(), ctx.op, ctx.of, ctx.needs_input_grad
    kept, residual, counts, code, latent, scale, shift, weight, slope, factor, offset = ctx.saved_tensors
    short = op.conv.short
    gz, sums = torch.empty_like(grad), torch.zeros(4, grad.shape[1], dtype=torch.float64)
    kernels.unit(
        native.BACKWARD, grad, values=grad, counts=counts, code=code, scale=factor, offset=offset,
        shortcut=None if short else kept if ctx.identity else residual, slope=slope, out=gz, sums=sums,
    )  # fmt: skip
    of_after, of_slope, of_before = sums[0], sums[1], sums[2]
    alpha = torch.ones((), dtype=torch.float64) if scale is None else scale.flatten().double()
    of_weight = of.step * (alpha * sums[3] - of.mean * of_before)
    gx = g = of_latent = of_scale = of_shift = None
    if any(needs[place] for place in (0, 2, 3, 4)):
        gy = _through_norm(kernels, gz, counts, (weight, alpha, of_weight, of_before), of)
        gx, g = _through_conv(kernels, ctx, gy, kept, latent, scale, shift)
    if g is not None:
        of_latent, of_scale = weight_gradients(g, latent, scale, op.conv.weight_slope, op.conv.scaled, needs[2:4])
    if gx is not None:
        of_shift = torch.zeros(1, gx.shape[1], dtype=torch.float64)
        kernels.unit(
            native.INPUT, gx, op.polynomial, values=gx, x=None if short else kept, code=kept if short else None,
            offset=None if short else shift, shortcut=gz if ctx.identity else None, out=gx, sums=of_shift,
        )  # fmt: skip
        of_shift = of_shift[0].float() if needs[4] else None
    vectors = (of_weight, of_before, of_before, of_slope, of_after)
    return (
        gx if needs[0] else None, None if ctx.identity else gz, of_latent, of_scale, of_shift,
        *(vector.float() if need else None for vector, need in zip(vectors, needs[5:10], strict=True)),
    )  # fmt: skip


def _through_norm(
    kernels: native.Kernels, gz: Tensor, counts: Tensor, vectors: tuple[Tensor, Tensor, Tensor, Tensor], of: Statistics
) -> Tensor:
    """From the gradient of the norm's result to that of its input; vectors are weight, alpha and the sums for both."""
    weight, alpha, of_weight, of_bias = vectors
    factor = weight.double() * of.step
    by_count = constant = torch.zeros_like(factor)
    if of.count:
        by_mean = factor * of.step * of_weight / of.count
        by_count, constant = -by_mean * alpha, by_mean * of.mean - factor * of_bias / of.count
    gy = torch.empty_like(gz)
    steps = factor.float(), by_count.float(), constant.float()
    kernels.unit(native.NORM, gz, values=gz, counts=counts, scale=steps[0], slope=steps[1], offset=steps[2], out=gy)
    return gy


def _through_conv(
    kernels: native.Kernels, ctx: Any, gy: Tensor, kept: Tensor, latent: Tensor, scale: Tensor | None,
    shift: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of the signs and of ``w_hat``."""
    op, needs = ctx.op, ctx.needs_input_grad
    wanted = needs[0] or needs[4], needs[2] or (needs[3] and scale is not None)
    signs = torch.empty_like(kept, dtype=torch.float32)
    if op.conv.short:
        kernels.unit(native.SIGNS, signs, out=signs, code=kept)
    else:
        kernels.unit(native.SIGNS, signs, out=signs, values=kept, offset=shift)
    gx, g = op.conv.backward(gy, signs, scaled_signs(latent, scale), wanted)
    return None if gx is None else gx.contiguous(), g


def unit_product(
    x: Tensor, shortcut: Tensor | None, latent: Tensor, scale: Tensor | None, shift: Tensor | None,
    activation: tuple[Tensor | None, Tensor | None, Tensor | None], op: UnitOperation,
) -> Tensor:  # fmt: skip
    """A unit's result, (N, C_out, H', W').

    Args:
        x: (N, C_in, H, W), dense, float32 on the CPU.
        shortcut: As the result; None is ``x``.
        latent: (C_out, C_in/groups, K, K).
        scale: (C_out, 1, 1, 1), or None for 1.
        shift: (C_in,), or None.
        activation: Shift before, slope and shift after, each (C_out,) or None.
        op: What is computed.
    """
    return _Unit.apply(x, shortcut, latent, scale, shift, op.norm.weight, op.norm.bias, *activation, op)
