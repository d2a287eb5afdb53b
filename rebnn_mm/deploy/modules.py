"""1-bit layers with packed weights: what a :class:`~rebnn_mm.layers.BinaryConv2d` of any method is after training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.layer import ConvSpec, Epilogue, InputSide
from rebnn_mm.deploy.ops import Conv2dPlan, LinearPlan, binary_conv2d, binary_linear

ConvShape = ConvSpec


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

    def sides(self, alpha: Tensor) -> tuple[InputSide, Epilogue]:
        """The same for the kernels."""
        before, slope, after = self.rprelu or (None, None, None)
        epilogue = Epilogue(alpha, self.bias, self.norm, before, slope, after)
        return InputSide(self.shift, self.input_norm), epilogue


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
        self.sides = (around or Around()).sides(alpha)
        self.pad = pad
        self.shortcut = shortcut
        self.register_buffer("packed", packed)
        self.register_buffer("alpha", alpha)
        self._plan = Conv2dPlan(packed, shape, *self.sides)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Sign, convolve, scale, and what else the layer was given."""
        if residual is None and self.shortcut:
            residual = x
        if self.pad is not None:
            x = nn.functional.pad(x, self.pad[0], mode=self.pad[1])
        if torch.compiler.is_compiling():
            return cast(Tensor, binary_conv2d(x, self.packed, self.shape, *self.sides, residual))
        return cast(Tensor, self._plan(x, residual))

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
        layer_norm: nn.LayerNorm | None = None,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.layer_norm = layer_norm
        self.shortcut = shortcut
        self.sides = (around or Around()).sides(alpha)
        self.register_buffer("packed", packed)
        self.register_buffer("alpha", alpha)
        self._spec = ConvSpec.linear(*shape)
        self._plan = LinearPlan(packed, self._spec, *self.sides)

    def forward(self, x: Tensor) -> Tensor:
        """Sign, multiply, scale, and what else the layer was given."""
        residual = x if self.shortcut else None
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        if torch.compiler.is_compiling():
            return cast(Tensor, binary_linear(x, self.packed, self._spec, *self.sides, residual))
        return cast(Tensor, self._plan(x, residual))

    def extra_repr(self) -> str:
        """The shape."""
        return f"(C_out, C_in)={self.shape}"
