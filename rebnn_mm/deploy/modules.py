"""1-bit layers with packed weights: what a :class:`~rebnn_mm.layers.BinaryConv2d` of any method is after training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.ops import Conv2dPlan, LinearPlan, binary_conv2d, binary_linear

Pair = tuple[int, int]


@dataclass(frozen=True)
class ConvShape:
    """Shape of a convolution: ``weight_shape`` is (C_out, C_in/groups, K, K), the rest as ``nn.Conv2d``."""

    weight_shape: tuple[int, ...]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Around:
    """What is computed in the same pass as a 1-bit layer, in this order; None leaves it out.

    Attributes:
        shift: (C_in,), added before the sign.
        input_norm: (scale, offset), each (C_in,): ``fma(x + shift, scale, offset)`` before the sign.
        bias: (C_out,), added after alpha.
        norm: (scale, offset), each (C_out,): the batch norm behind, from ``fold_batch_norm``.
        rprelu: (shift, slope, shift), each (C_out,), applied after the shortcut.
    """

    shift: Tensor | None = None
    input_norm: tuple[Tensor, Tensor] | None = None
    bias: Tensor | None = None
    norm: tuple[Tensor, Tensor] | None = None
    rprelu: tuple[Tensor, Tensor, Tensor] | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the kernels."""
        scale, offset = self.norm or (None, None)
        own: dict[str, Any] = dict(shift=self.shift, input_norm=self.input_norm, bias=self.bias, rprelu=self.rprelu)
        return {**own, "scale": scale, "offset": offset}


class PackedConv2d(nn.Module):
    """1-bit convolution with all that surrounds it, in one kernel call.

    (N, C_in, H, W) and a shortcut of the output's shape -> (N, C_out, H', W'), in the memory format of
    the input. Equals the trained layers in eval mode bit for bit.

    Args:
        packed: From :func:`rebnn_mm.deploy.packing.pack_signs`.
        alpha: (C_out,).
        shape: Shape of the convolution.
        around: Shift, norms, bias and activation.
        pad: ``(left, right, top, bottom)`` and ``F.pad``'s mode, for a padding that is not zero.
        shortcut: Add the input itself, if ``forward`` is not given another shortcut.
    """

    packed: Tensor
    alpha: Tensor

    def __init__(
        self,
        packed: Tensor,
        alpha: Tensor,
        shape: ConvShape,
        around: Around | None = None,
        pad: tuple[tuple[int, ...], str] | None = None,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.around = (around or Around()).arguments()
        self.pad = pad
        self.shortcut = shortcut
        self.register_buffer("packed", packed)
        self.register_buffer("alpha", alpha)
        self._plan = Conv2dPlan(packed, alpha, **asdict(shape), **self.around)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Sign, convolve, scale, and what else the layer was given."""
        if residual is None and self.shortcut:
            residual = x
        if self.pad is not None:
            x = nn.functional.pad(x, self.pad[0], mode=self.pad[1])
        if torch.compiler.is_compiling():
            options = {**asdict(self.shape), **self.around}
            return binary_conv2d(x, self.packed, self.alpha, residual=residual, **options)
        return self._plan(x, residual)

    def extra_repr(self) -> str:
        """The shape."""
        return str(self.shape)


class PackedLinear(nn.Module):
    """1-bit linear layer, (..., C_in) -> (..., C_out).

    Args:
        packed, alpha, shape, around: As for :class:`PackedConv2d`.
        layer_norm: Applied to the input before the sign; without parameters.
        shortcut: Add the input, as it comes, to the result.
    """

    packed: Tensor
    alpha: Tensor

    def __init__(
        self,
        packed: Tensor,
        alpha: Tensor,
        shape: tuple[int, int],
        around: Around | None = None,
        layer_norm: nn.Module | None = None,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.layer_norm = layer_norm
        self.shortcut = shortcut
        self.around = (around or Around()).arguments()
        self.register_buffer("packed", packed)
        self.register_buffer("alpha", alpha)
        self._plan = LinearPlan(packed, alpha, weight_shape=shape, **self.around)

    def forward(self, x: Tensor) -> Tensor:
        """Sign, multiply, scale, and what else the layer was given."""
        residual = x if self.shortcut else None
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        if torch.compiler.is_compiling():
            options = dict(weight_shape=self.shape, **self.around)
            return binary_linear(x, self.packed, self.alpha, residual=residual, **options)
        return self._plan(x, residual)

    def extra_repr(self) -> str:
        """The shape."""
        return f"(C_out, C_in)={self.shape}"
