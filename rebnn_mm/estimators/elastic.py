"""Elastic binary activation of BiT (Liu et al., NeurIPS 2022): a learned scale and a learned threshold.

inputs of both signs    ``alpha * sign(x - beta)``, the slope of the sign 1 on ``|x - beta| <= 1``, 0 elsewhere
inputs not below 0      ``alpha * q``, ``q = round(clip((x - beta) / alpha, 0, 1))`` in {0, 1}, slope of the clip

The two values of the second kind are those of a sign, ``q = (s + 1) / 2`` with ``s = sign(x - (beta + alpha / 2))``, so
that a 1-bit layer multiplies signs in both cases, and what is learned goes into its scale and its offset.
"""

from __future__ import annotations

import torch
from mmengine import dist
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.estimators.clipped import clipped_sign
from rebnn_mm.functional import sign
from rebnn_mm.tracing import one_operation


class _ElasticSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        return sign(x - (beta + alpha / 2))

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, alpha, beta = ctx.saved_tensors
        inside = (x >= beta) & (x < beta + alpha)
        through = torch.where(inside, 2 * grad / alpha, 0)  # of s = 2 q - 1; where anything is inside, alpha > 0
        place = torch.where(inside, (x - beta) / alpha, 0)
        return through, -(through * place).sum().view_as(alpha), -through.sum().view_as(beta)


@one_operation
def elastic_sign(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``2 q - 1`` in {-1, +1}, with the gradients of ``q = clip((x - beta) / alpha, 0, 1)``; x of any shape.

    Args:
        x: What is binarized, seldom below 0.
        alpha: (1,), the larger value and the width of the range that has a gradient.
        beta: (1,), where that range begins.
    """
    return _ElasticSign.apply(x, alpha, beta)


@MODELS.register_module()
class ElasticSTE(nn.Module):
    """The sign of an elastic activation, and its values, for ``estimator=dict(type='ElasticSTE')``.

    ``beta`` starts at 0. ``alpha`` starts at the mean of ``|x|``, and twice of it for ``unsigned``, whose threshold is
    then the mean, at the first batch of a training; the paper does not say where it starts. Before, it is 1, and it
    stays 1 where it is frozen, where that batch is all 0, and in a module that ``torch.fx`` traced.

    Args:
        unsigned: The input is not below 0, as behind a ReLU or a softmax: values are 0 and ``alpha`` instead of
            ``-alpha`` and ``alpha``.

    Attributes:
        alpha, beta: (1,).
    """

    def __init__(self, unsigned: bool = False) -> None:
        super().__init__()
        self.unsigned = unsigned
        self.alpha = nn.Parameter(torch.empty(1))
        self.beta = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set both as the constructor does; torch calls it after ``to_empty`` as well."""
        self.alpha.fill_(1)
        self.beta.zero_()
        self._fresh = True  # alpha has no value of its own yet

    def forward(self, x: Tensor) -> Tensor:
        """The signs that stand for the two values: same shape, in {-1, +1}."""
        if self._fresh and self.training and not isinstance(x, torch.fx.Proxy) and self.alpha.requires_grad:
            self._start(x)
            self._fresh = False
        if self.unsigned:
            return elastic_sign(x, self.alpha, self.beta)
        return clipped_sign(x - self.beta)

    def values(self, signs: Tensor) -> Tensor:
        """The values that ``signs`` stand for."""
        y = signs * self.factor()
        return y + self.factor() if self.unsigned else y

    def factor(self) -> Tensor:
        """(1,): half of the distance between the two values; what is added to it is 0, or the same for ``unsigned``."""
        return self.alpha / 2 if self.unsigned else self.alpha

    def threshold(self) -> Tensor:
        """(1,): the sign is that of ``x`` minus this."""
        return self.beta + self.alpha / 2 if self.unsigned else self.beta

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        start = x.detach().abs().float().mean().view(1) * (2 if self.unsigned else 1)
        dist.all_reduce(start, "mean")  # each process has a batch of its own
        # an average that was copied before the training has an alpha by now, though no batch of its own was seen
        self.alpha.copy_(torch.where((start > 0) & (self.alpha == 1), start, self.alpha))

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._fresh = self._fresh and f"{prefix}alpha" not in state_dict

    def extra_repr(self) -> str:
        """The kind of input."""
        return f"unsigned={self.unsigned}"
