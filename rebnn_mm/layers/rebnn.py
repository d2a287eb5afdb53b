"""ReBNN's convolution and linear layer (Xu et al., AAAI 2023).

``y = alpha * conv(sign(a), sign(w)) + bias``: alpha multiplies the integer result, so that a
bit-packed run-time can give the same float, bit for bit. The layer holds ``alpha`` and ``gamma``
and knows nothing of time: :class:`rebnn_mm.hooks.BalanceHook` computes gamma and adds the
gradient of the reconstruction term.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.estimators import clipped_sign
from rebnn_mm.functional import scale_init, sign
from rebnn_mm.layers.interface import BinaryLayer


class _ReBNNLayer(BinaryLayer):
    """What the convolution and the linear layer share: alpha, gamma, and the binary input."""

    alpha: nn.Parameter | None
    gamma: Tensor | None

    def _init_binary(
        self,
        estimator: dict[str, Any] | None,
        weight_only: bool,
        activation_only: bool,
        input_norm: nn.Module | None,
    ) -> None:
        if weight_only and activation_only:
            raise ValueError(
                f"{type(self).__name__}: weight_only and activation_only together leave nothing 1-bit; "
                "set one of them, or use the plain torch layer"
            )
        self.binarizes_weight = not activation_only
        self.binarizes_input = not weight_only
        self.input_norm = input_norm
        self.estimator = MODELS.build(estimator or dict(type="PolynomialSTE")) if self.binarizes_input else None
        if self.binarizes_weight:
            self.alpha = nn.Parameter(scale_init(self.weight.detach()))
            self.register_buffer("gamma", torch.zeros_like(self.alpha))
        else:
            self.register_parameter("alpha", None)
            self.register_buffer("gamma", None)
        # Frameworks initialise `weight` long after the constructor, so alpha is taken from it
        # at the first forward, unless a checkpoint brings one.
        self._alpha_pending = self.binarizes_weight

    def binary_weight(self) -> Tensor:
        """Binary weight in {-1, +1}, shaped as ``weight``, without gradient."""
        if not self.binarizes_weight:
            raise ValueError(f"{type(self).__name__}(activation_only=True) has real-valued weights")
        return sign(self.weight.detach())

    @torch.no_grad()
    def reset_alpha(self) -> None:
        """Set alpha to the mean of ``|w|`` of each output channel, as training starts from it."""
        if self.alpha is not None:
            self.alpha.copy_(scale_init(self.weight))

    def _binary_input(self, x: Tensor) -> Tensor:
        if self._alpha_pending:
            self.reset_alpha()
            self._alpha_pending = False
        if self.input_norm is not None:
            x = self.input_norm(x)
        return x if self.estimator is None else self.estimator(x)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        if self._alpha_pending:
            self.reset_alpha()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Accept a checkpoint of real-valued weights (stage one, ImageNet): alpha comes from them."""
        weight = state_dict.get(f"{prefix}weight")
        if self.alpha is not None and weight is not None:
            if f"{prefix}alpha" not in state_dict:
                state_dict[f"{prefix}alpha"] = scale_init(weight)
                state_dict[f"{prefix}gamma"] = torch.zeros_like(state_dict[f"{prefix}alpha"])
            self._alpha_pending = False
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Add which sides are 1-bit to torch's description."""
        sides = "W1A1" if self.binarizes_weight and self.binarizes_input else ("W1A32", "W32A1")[self.binarizes_input]
        return f"{super().extra_repr()}, {sides}"


@MODELS.register_module()
class ReBNNConv2d(_ReBNNLayer, nn.Conv2d):
    """1-bit ``nn.Conv2d``: (N, C_in, H, W) -> (N, C_out, H', W').

    ``padding_mode='zeros'`` pads the binary input with 0 (a third value at the border only); the
    other modes pad with neighbouring signs. ``bias=True`` is a real-valued offset of each output
    channel, added after the scale.

    Args:
        args, kwargs: As for ``nn.Conv2d``.
        estimator: Config of the input's sign; default ``dict(type='PolynomialSTE')``. The weight's
            sign is always the clipped straight-through one, which B.3.144 states.
        weight_only: W1A32, the input stays real-valued.
        activation_only: W32A1, the weight stays real-valued; no alpha, no gamma (stage one).
        input_norm: Put a batch norm without affine parameters before the sign. A layer behind a
            ReLU needs it: all its inputs are >= 0, and every sign would be +1.
        shortcut: Add the real-valued input to the result where the layer keeps its shape, as Bi-Real
            Net (ECCV 2018) does around every 1-bit convolution; a layer that changes channels or
            size goes without. For modules that bring no shortcut of their own (an FPN, an RPN
            head): their real-valued twin needs none, it can hold the identity in its weights.

    Raises:
        ValueError: Both ``weight_only`` and ``activation_only``.
    """

    def __init__(
        self,
        *args: Any,
        estimator: dict[str, Any] | None = None,
        weight_only: bool = False,
        activation_only: bool = False,
        input_norm: bool = False,
        shortcut: bool = False,
        **kwargs: Any,
    ) -> None:
        nn.Conv2d.__init__(self, *args, **kwargs)
        norm = nn.BatchNorm2d(self.in_channels, affine=False) if input_norm else None
        self._init_binary(estimator, weight_only, activation_only, norm)
        self.shortcut = shortcut and _keeps_shape(self)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the sign of ``x`` with the sign of the weight and scale the result."""
        y = self._scaled_conv(self._binary_input(x))
        return y + x if self.shortcut else y

    def _scaled_conv(self, x: Tensor) -> Tensor:
        if self.alpha is None:
            return self._conv_forward(x, self.weight, self.bias)
        y = self._conv_forward(x, clipped_sign(self.weight), None)
        y = y * self.alpha.to(y.dtype).view(-1, 1, 1)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, 1, 1)


def _keeps_shape(conv: nn.Conv2d) -> bool:
    """Whether every input gives an output of its own shape."""
    if conv.in_channels != conv.out_channels or any(step != 1 for step in conv.stride):
        return False
    if isinstance(conv.padding, str):
        return conv.padding == "same"
    sides = zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
    return all(2 * padding == dilation * (size - 1) for padding, dilation, size in sides)


@MODELS.register_module()
class ReBNNLinear(_ReBNNLayer, nn.Linear):
    """1-bit ``nn.Linear``: (..., C_in) -> (..., C_out); the options are those of :class:`ReBNNConv2d`.

    ``input_norm=True`` normalises over the batch and needs (N, C_in).
    """

    def __init__(
        self,
        *args: Any,
        estimator: dict[str, Any] | None = None,
        weight_only: bool = False,
        activation_only: bool = False,
        input_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        nn.Linear.__init__(self, *args, **kwargs)
        norm = nn.BatchNorm1d(self.in_features, affine=False) if input_norm else None
        self._init_binary(estimator, weight_only, activation_only, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the sign of ``x`` with the sign of the weight and scale the result."""
        x = self._binary_input(x)
        if self.alpha is None:
            return nn.functional.linear(x, self.weight, self.bias)
        y = nn.functional.linear(x, clipped_sign(self.weight))
        y = y * self.alpha.to(y.dtype).flatten()
        return y if self.bias is None else y + self.bias.to(y.dtype)
