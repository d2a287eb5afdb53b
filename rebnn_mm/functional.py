"""The equations of ReBNN as functions of tensors (Xu et al., AAAI 2023, arXiv 2302.00956).

One layer, output channel ``i``. Shapes, once for the whole file:

======== ======================== ==================================================
symbol   shape                    meaning
======== ======================== ==================================================
``w``    (C_out, C_in/g, K, K)    latent real-valued weight (a linear layer has K = 1)
``b``    as ``w``                 binary weight ``sign(w)``, in {-1, +1}
alpha    (C_out, 1, ...)          learnable scale of each output channel; a layer keeps it as (C_out,)
gamma    (C_out, 1, ...)          balance parameter of each output channel, >= 0
``M``    scalar                   weights of one output channel, ``w[0].numel()``
======== ======================== ==================================================

Equation numbers B.* are those of the book "Binary Neural Networks: Algorithms,
Architectures, and Applications", section 3.9.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.tracing import one_operation


def sign(x: Tensor) -> Tensor:
    """Binary value of ``x`` in {-1, +1}, same shape and dtype; no gradient rule of its own.

    ``sign(0) = sign(-0.0) = +1``: unlike ``torch.sign`` the result is never 0, which would be
    a third value that no bit can hold. NaN gives -1, as the packed comparison ``x >= 0`` does.
    """
    bits = (x >= 0).to(x.dtype)
    # A compiler that traces an autograd.Function whose forward writes in place loses its gradient rule. Without one,
    # writing in place is 1.5 to 4 times faster on a CPU than new tensors, and 4 to 12 times faster than torch.where.
    return bits * 2 - 1 if torch.compiler.is_compiling() else bits.mul_(2).sub_(1)


def flip_share(b_before: Tensor, b_after: Tensor) -> Tensor:
    """Share of signs that changed in each output channel: (C_out,), in [0, 1].

    ``flip_i = 1/M * #{j : b_ij(t) != b_ij(t+1)}``, the first factor of B.3.150. Takes binary
    weights or their sign bits (bool), of one shape.
    """
    return (b_before != b_after).flatten(1).sum(dim=1, dtype=torch.int32) / b_before[0].numel()


@one_operation
def scale_init(w: Tensor) -> Tensor:
    """Initial ``alpha``: the mean of ``|w|`` in each output channel, (C_out, 1, ...)."""
    return w.abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)


@one_operation
def standardize(w: Tensor) -> Tensor:
    """``(w - mean) / std`` of each output channel, as ``w``, differentiable; a constant channel gives 0.

    IR-Net's balanced weights (Qin et al., CVPR 2020, section 3.2). The standard deviation divides by
    ``M - 1``, as in the authors' code.
    """
    std, mean = torch.std_mean(w, dim=tuple(range(1, w.dim())), keepdim=True)
    return (w - mean) / std.clamp_min(1e-12)


def gradient_magnitude(w: Tensor, grad_w: Tensor, alpha: Tensor) -> Tensor:
    """Largest ``|dL_S/dw_hat|`` in each output channel: (C_out,).

    ``grad_w = alpha * dL_S/dw_hat * 1[|w| <= 1]`` (B.3.144), so inside the straight-through
    region the gradient is recovered by dividing; outside it a weight cannot oscillate and does
    not count. A channel whose alpha is 0 has no gradient to speak of: 0.
    """
    largest = weight_magnitude(grad_w.masked_fill(w.abs() > 1, 0))
    scale = alpha.abs().flatten()
    return torch.where(scale > 0, largest / scale, torch.zeros_like(scale))


def weight_magnitude(w: Tensor) -> Tensor:
    """Largest ``|w|`` in each output channel: (C_out,)."""
    flat = w.flatten(1)
    return torch.maximum(flat.amax(dim=1), -flat.amin(dim=1))  # |w| would be a copy of all weights


def balance_parameter(
    flips: Tensor | None,
    magnitude: Tensor,
    gamma_min: float | None = None,
    gamma_max: float | None = None,
) -> Tensor:
    """Next balance parameter ``gamma_i = flip_i * magnitude_i``: (C_out,) (B.3.150).

    Args:
        flips: Flip share of each channel, (C_out,); None leaves the factor out (the ablation).
        magnitude: :func:`gradient_magnitude` (the paper) or :func:`weight_magnitude`, (C_out,).
        gamma_min: Lower bound, or None.
        gamma_max: Upper bound, or None.
    """
    gamma = magnitude if flips is None else flips * magnitude
    if gamma_min is None and gamma_max is None:
        return gamma
    return gamma.clamp(gamma_min, gamma_max)


def reconstruction_loss(w: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
    """``L_R = 1/2 * sum_i gamma_i * ||w_i - alpha_i * b_i||^2``, a scalar; ``b`` is a constant."""
    residual = w - alpha * sign(w.detach())
    return 0.5 * (gamma * residual.square()).sum()


def reconstruction_grad(w: Tensor, alpha: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`reconstruction_loss`, without building a graph.

    Returns ``(dL_R/dw, dL_R/dalpha)``, shaped as ``w`` and ``alpha``:

    - ``dL_R/dw = gamma * (w - alpha * b)`` (second term of B.3.144)
    - ``dL_R/dalpha_i = -gamma_i * sum_j (w_ij - alpha_i b_ij) b_ij``. B.3.151-152 print it
      without the minus sign; the derivative has it. With ``w * b = |w|`` and ``b * b = 1`` it is
      ``gamma_i * (M * alpha_i - sum_j |w_ij|)``.
    """
    grad_w = sign(w).mul_(-alpha).add_(w).mul_(gamma)
    grad_alpha = gamma * (w[0].numel() * alpha - w.abs().sum(dim=tuple(range(1, w.dim())), keepdim=True))
    return grad_w, grad_alpha
