"""What the 1-bit layers of all methods share: ``y = scale * op(sign(a), b) + bias``.

A method says two things, each with the gradient that its paper gives it: the binary weight ``b``
(``_weight_sign``, or ``_signs``) and the scale of each output channel (``_scale``). The scale multiplies the
integer result, so that a packed run-time can give the same float, bit for bit.

A layer runs as the one function of :mod:`rebnn_mm.layers.function`, and composed of torch's operations where something
follows what it does, see :mod:`rebnn_mm.layers.fused`.

A registered layer names ``nn.Conv2d`` (or ``nn.Linear``) among its own bases: mmengine's initialisers,
``init_cfg=dict(type='Kaiming', layer='Conv2d')``, compare the names of direct base classes only.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.checks import check_config
from rebnn_mm.errors import UserError
from rebnn_mm.estimators import ElasticSTE, gradient_of_scaled
from rebnn_mm.fast_path import keep_called
from rebnn_mm.layers.fused import fused, fuses
from rebnn_mm.layers.guard import GuardedLayer
from rebnn_mm.layers.norm import InputLayerNorm, InputNorm
from rebnn_mm.layers.weight_sign import WeightSign

KEEP = ("input", "code")


class BinaryBase(GuardedLayer):
    """The binary input and the method's two members, for convolutions and linear layers alike.

    Attributes:
        default_estimator: Config of the input's sign where the user gives none; the method's own.
    """

    default_estimator = "PolynomialSTE"
    keep = "input"  # for layers that were pickled before there was a choice

    def _init_binary(
        self,
        estimator: dict[str, Any] | None,
        weight_only: bool,
        activation_only: bool,
        input_norm: nn.Module | None,
        keep: str,
    ) -> None:
        if keep not in KEEP:
            raise UserError(f"{type(self).__name__}: keep={keep!r} is not one of {KEEP}")
        self.keep = keep
        if weight_only and activation_only:
            raise UserError(
                f"{type(self).__name__}: weight_only and activation_only together leave nothing 1-bit; "
                "set one of them, or use the plain torch layer"
            )
        self.binarizes_weight = not activation_only
        self.binarizes_input = not weight_only
        self.input_norm = input_norm
        cfg = estimator or dict(type=self.default_estimator)
        check_config(f"{type(self).__name__}: estimator", cfg, self.default_estimator)
        self.estimator = MODELS.build(cfg) if self.binarizes_input else None
        self._init_method()

    def _init_method(self) -> None:
        """Add the method's own parameters and buffers, if it has any."""

    def _weight_sign(self) -> WeightSign:
        """How the binary weight comes from the latent one."""
        return WeightSign(self.weight)

    def _signs(self) -> Tensor:
        """Binary weight in {-1, +1}, shaped as ``weight``, with the method's gradient."""
        how = self._weight_sign()
        b, scale = how.sign(how.latent), None if how.scaled else self._scale()
        return b if scale is None else gradient_of_scaled(b, scale)

    def _scale(self) -> Tensor | None:
        """Scale of each output channel, (C_out, 1, ...), with the method's gradient; None is 1."""
        return None

    @torch.no_grad()
    def binary_weight(self) -> Tensor:
        """Binary weight in {-1, +1}, shaped as ``weight``, without gradient."""
        self._check_binarizes_weight()
        return self._signs().detach()

    @torch.no_grad()
    def scale(self) -> Tensor | None:
        """Scale of each output channel, (C_out, 1, ...), without gradient; None is 1."""
        self._check_binarizes_weight()
        scale = self._factor()
        return None if scale is None else scale.detach()

    @torch.no_grad()
    def offset(self) -> Tensor | None:
        """What is added behind the scale, (C_out,), without gradient; None is 0."""
        self._check_binarizes_weight()
        return self._offset(self._signs(), self._factor())

    def _factor(self) -> Tensor | None:
        """What the product of signs is multiplied with: the method's scale, times that of the input's values."""
        scale = self._scale()
        if not isinstance(self.estimator, ElasticSTE):
            return scale
        factor = self.estimator.factor()
        ones = [1] * (self.weight.dim() - 1)
        return factor.view(1, *ones).expand(len(self.weight), *ones) if scale is None else scale * factor.view(1, *ones)

    def _offset(self, b: Tensor, factor: Tensor | None) -> Tensor | None:
        """The bias; and, where the input's values are 0 and more, what makes them of signs (see :class:`ElasticSTE`).

        Args:
            b: The binary weight.
            factor: From :meth:`_factor`.
        """
        bias: Any = self.bias
        if factor is None or not isinstance(self.estimator, ElasticSTE) or not self.estimator.unsigned:
            return bias
        raised = factor.flatten() * b.flatten(1).sum(1)
        return raised if bias is None else raised + bias

    def _check_several_weights(self) -> None:
        """For methods that standardise: one weight has no standard deviation."""
        if self.weight[0].numel() < 2:
            raise UserError(
                f"{type(self).__name__}: one weight an output channel, shape {tuple(self.weight.shape)}, has no "
                "standard deviation; leave this layer real-valued or use another method for it"
            )

    def _check_binarizes_weight(self) -> None:
        if not self.binarizes_weight:
            raise UserError(f"{type(self).__name__}(activation_only=True) has real-valued weights")

    def _binary_input(self, x: Tensor) -> Tensor:
        if self.input_norm is not None:
            x = self.input_norm(x)
        if self.estimator is None:
            return x
        signs = self.estimator(x)
        elastic = isinstance(self.estimator, ElasticSTE)
        return self.estimator.values(signs) if elastic and not self.binarizes_weight else signs

    def extra_repr(self) -> str:
        """Add which sides are 1-bit to torch's description."""
        sides = "W1A1" if self.binarizes_weight and self.binarizes_input else ("W1A32", "W32A1")[self.binarizes_input]
        return f"{super().extra_repr()}, {sides}"


class BinaryConv2d(BinaryBase, nn.Conv2d):
    """1-bit ``nn.Conv2d``: (N, C_in, H, W) -> (N, C_out, H', W').

    ``padding_mode='zeros'`` pads the binary input with 0 (a third value at the border only); the
    other modes pad with neighbouring signs. ``bias=True`` is a real-valued offset of each output
    channel, added after the scale.

    Args:
        args, kwargs: As for ``nn.Conv2d``.
        estimator: Config of the input's sign; default is the method's own.
        weight_only: W1A32, the input stays real-valued.
        activation_only: W32A1, the weight stays real-valued and plain (stage one).
        input_norm: Put a batch norm without affine parameters, :class:`rebnn_mm.layers.norm.InputNorm`, before the
            sign. A layer behind a ReLU needs it: all its inputs are >= 0, and every sign would be +1.
        shortcut: Add the real-valued input to the result where the layer keeps its shape, as Bi-Real
            Net (ECCV 2018) does around every 1-bit convolution; a layer that changes channels or
            size goes without. For modules that bring no shortcut of their own (an FPN, an RPN
            head): their real-valued twin needs none, it can hold the identity in its weights.
        keep: What stays in memory for the backward: ``'input'``, the input, or ``'code'``, a byte for each of its
            elements, which rounds the gradient of the input: see :mod:`rebnn_mm.layers.kept`.

    Raises:
        ValueError: Both ``weight_only`` and ``activation_only``, or another ``keep``.
    """

    def __init__(
        self,
        *args: Any,
        estimator: dict[str, Any] | None = None,
        weight_only: bool = False,
        activation_only: bool = False,
        input_norm: bool = False,
        shortcut: bool = False,
        keep: str = "input",
        **kwargs: Any,
    ) -> None:
        nn.Conv2d.__init__(self, *args, **kwargs)
        norm = InputNorm(self.in_channels) if input_norm else None
        self._init_binary(estimator, weight_only, activation_only, norm, keep)
        self.shortcut = shortcut and _keeps_shape(self)
        self._check_padding()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the sign of ``x`` with the binary weight and scale the result."""
        y = fused(self, x) if fuses(self, x) else self._scaled_conv(self._binary_input(x))
        return y + x if self.shortcut else y

    def _check_padding(self) -> None:
        """Zeros around signs stand for a value half-way between 0 and alpha, which is none of the two."""
        unsigned = isinstance(self.estimator, ElasticSTE) and self.estimator.unsigned
        if unsigned and self.padding_mode == "zeros" and any(self._reversed_padding_repeated_twice):
            raise UserError(
                f"{type(self).__name__}: ElasticSTE(unsigned=True) does not go with padding={self.padding}; use "
                "padding 0 or another padding_mode, or unsigned=False"
            )

    def _scaled_conv(self, x: Tensor) -> Tensor:
        if not self.binarizes_weight:
            return super()._conv_forward(x, self.weight, self.bias)
        scale, b = self._factor(), self._signs()
        y = super()._conv_forward(x, b, None)
        if scale is not None:
            y = y * scale.to(y.dtype).view(-1, 1, 1)
        offset = self._offset(b, scale)
        return y if offset is None else y + offset.to(y.dtype).view(-1, 1, 1)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Refuse torch's bare convolution, which others call with a weight of theirs.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{type(self).__name__}: its convolution is called past forward, as by efficient_conv_bn_eval (mmcv, "
            "mmengine), which computes with real values; leave that option out for models with 1-bit layers"
        )


def _keeps_shape(conv: nn.Conv2d) -> bool:
    """Whether every input gives an output of its own shape."""
    if conv.in_channels != conv.out_channels or any(step != 1 for step in conv.stride):
        return False
    if isinstance(conv.padding, str):
        return conv.padding == "same"
    sides = zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
    return all(2 * padding == dilation * (size - 1) for padding, dilation, size in sides)


class BinaryLinear(BinaryBase, nn.Linear):
    """1-bit ``nn.Linear``: (..., C_in) -> (..., C_out); the options are those of :class:`BinaryConv2d`, but two.

    Args:
        args, kwargs: As for ``nn.Linear``.
        estimator, weight_only, activation_only, keep: As for :class:`BinaryConv2d`.
        input_norm: True normalises each of the C_in features over all the other axes, whatever their number, by
            :class:`rebnn_mm.layers.norm.InputNorm`. ``'layer'`` normalises each vector by itself, also in evaluation,
            and does not depend on the batch. Neither has parameters.
        shortcut: Add the real-valued input to the result where C_in = C_out. This and a layer norm are what Zhang et
            al. add to the 1-bit linear layers of a transformer ("Binarized Neural Machine Translation", NeurIPS 2023).

    Raises:
        ValueError: Both ``weight_only`` and ``activation_only``, or another ``input_norm``.
    """

    def __init__(
        self,
        *args: Any,
        estimator: dict[str, Any] | None = None,
        weight_only: bool = False,
        activation_only: bool = False,
        input_norm: bool | str = False,
        shortcut: bool = False,
        keep: str = "input",
        **kwargs: Any,
    ) -> None:
        nn.Linear.__init__(self, *args, **kwargs)
        self._init_binary(estimator, weight_only, activation_only, self._build_norm(input_norm), keep)
        keep_called(self)
        self.shortcut = shortcut and self.in_features == self.out_features

    def _build_norm(self, input_norm: bool | str) -> nn.Module | None:
        if input_norm not in (True, False, "layer"):
            raise UserError(f"{type(self).__name__}: input_norm={input_norm!r} is not one of True, False, 'layer'")
        if input_norm == "layer":
            return InputLayerNorm(self.in_features)
        return InputNorm(self.in_features, last_axis=True) if input_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the sign of ``x`` with the binary weight and scale the result."""
        y = fused(self, x) if fuses(self, x) else self._scaled_product(self._binary_input(x))
        return y + x if self.shortcut else y

    def _scaled_product(self, x: Tensor) -> Tensor:
        if not self.binarizes_weight:
            return nn.functional.linear(x, self.weight, self.bias)
        scale, b = self._factor(), self._signs()
        y = nn.functional.linear(x, b)
        if scale is not None:
            y = y * scale.to(y.dtype).flatten()
        offset = self._offset(b, scale)
        return y if offset is None else y + offset.to(y.dtype)
