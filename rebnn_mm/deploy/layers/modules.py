"""Packed layers: what a :class:`~rebnn_mm.layers.BinaryConv2d` of any method is after training, its weight as bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.layers.facts import AsTrained, sizes_of_spec
from rebnn_mm.deploy.layers.operators import Conv2dPlan, LinearPlan, binary_conv2d, binary_linear
from rebnn_mm.deploy.layers.prepared import Sources, is_recorded
from rebnn_mm.deploy.operation.spec import ConvSpec, Epilogue, InputSide
from rebnn_mm.errors import UserError
from rebnn_mm.fast_path import keep_called

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

    def vectors(self) -> dict[str, Tensor | None]:
        """The tensors under the names that the kernels have for them."""
        input_scale, input_offset = self.input_norm or (None, None)
        scale, offset = self.norm or (None, None)
        before, slope, after = self.rprelu or (None, None, None)
        return dict(
            **dict(shift=self.shift, input_scale=input_scale, input_offset=input_offset, bias=self.bias),
            **dict(scale=scale, offset=offset, before=before, slope=slope, after=after),
        )


class PackedLayer(AsTrained):
    """Packed bits and the vectors around them, as buffers, and the plan that is made of them.

    The plan is made again when a buffer is another one or has changed since (``load_state_dict``, ``.to``,
    ``functional_call``), and in a process that got the module as a copy or pickled: it belongs to one instruction set,
    so it stays out of both.
    """

    bits: Tensor
    alpha: Tensor

    def __init__(
        self, bits: Tensor, alpha: Tensor, spec: ConvSpec, around: Around | None, linear: bool = False
    ) -> None:
        super().__init__()
        self.spec = spec
        self._describe(spec.weight_shape[:2] if linear else spec.weight_shape, sizes_of_spec(spec, linear))
        vectors = dict(alpha=alpha, **(around or Around()).vectors())
        self.register_buffer("bits", bits)
        for name, vector in vectors.items():
            if vector is not None:  # torch.export miscounts buffers that are None
                self.register_buffer(name, vector)
        if "bias" not in self._buffers:
            self.bias = None
        self._prepared: tuple[Sources, Any] | None = None

    def arguments(self) -> tuple[Tensor, ConvSpec, InputSide, Epilogue]:
        """What the operator and its plan take, but input and residual."""
        get = self._buffers.get
        before = InputSide(get("shift"), _together(get("input_scale"), get("input_offset")))
        norm = _together(get("scale"), get("offset"))
        after = Epilogue(self.alpha, get("bias"), norm, get("before"), get("slope"), get("after"))
        return self.bits, self.spec, before, after

    def _plan(self) -> Any:
        prepared = self._prepared
        tensors: Any = self._buffers.values()  # none is None
        if prepared is not None and prepared[0].are(tensors):
            return prepared[1]
        sources = Sources(tensors)
        plan = self._prepare()
        self._prepared = sources, plan
        return plan

    def _prepare(self) -> Any:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}


def _together(scale: Tensor | None, offset: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if scale is None or offset is None else (scale, offset)


class PackedConv2d(PackedLayer):
    """1-bit convolution with all that surrounds it, in one kernel call.

    (N, C_in, H, W) and a shortcut of the output's shape -> (N, C_out, H', W'), in the memory format of
    the input. Equals the trained layers in eval mode bit for bit.

    Args:
        bits: From :func:`rebnn_mm.deploy.operation.bits.to_bits`.
        alpha: (C_out,).
        shape: Shape of the convolution.
        around: Shift, norms, bias and activation.
        pad: ``(left, right, top, bottom)`` and ``F.pad``'s mode, for a padding that is not zero.
        shortcut: Add the input itself, if ``forward`` is not given another shortcut.
    """

    def __init__(
        self,
        bits: Tensor,
        alpha: Tensor,
        shape: ConvShape,
        around: Around | None = None,
        pad: tuple[tuple[int, ...], str] | None = None,
        shortcut: bool = False,
    ) -> None:
        super().__init__(bits, alpha, shape, around)
        self.pad = pad
        self.shortcut = shortcut
        self._plan()  # what does not fit together is said here

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Sign, convolve, scale, and what else the layer was given."""
        if self.shortcut:
            if residual is None:
                residual = x
            elif isinstance(residual, torch.fx.Proxy):
                raise UserError(
                    "this layer adds its own input where no shortcut is given, which torch.fx cannot see: trace with "
                    "concrete_args={'residual': None}"
                )
        if self.pad is not None:
            x = nn.functional.pad(x, self.pad[0], mode=self.pad[1])
        if is_recorded(x):
            return cast(Tensor, binary_conv2d(x, *self.arguments(), residual))
        return self._plan()(x, residual)

    def _prepare(self) -> Conv2dPlan:
        return Conv2dPlan(*self.arguments())

    def extra_repr(self) -> str:
        """The shape."""
        return str(self.spec)


class PackedLinear(PackedLayer):
    """1-bit linear layer, (..., C_in) -> (..., C_out).

    Args:
        bits, alpha, shape, around: As for :class:`PackedConv2d`.
        layer_norm: Applied to the input before the sign; without parameters.
        shortcut: Add the input, as it comes, to the result.
    """

    def __init__(
        self,
        bits: Tensor,
        alpha: Tensor,
        shape: tuple[int, int],
        around: Around | None = None,
        layer_norm: nn.Module | None = None,
        shortcut: bool = False,
    ) -> None:
        super().__init__(bits, alpha, ConvSpec.linear(*shape), around, linear=True)
        self.layer_norm = layer_norm
        self.shortcut = shortcut
        keep_called(self)
        self._plan()  # what does not fit together is said here

    def forward(self, x: Tensor) -> Tensor:
        """Sign, multiply, scale, and what else the layer was given."""
        residual = x if self.shortcut else None
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        if is_recorded(x):
            return cast(Tensor, binary_linear(x, *self.arguments(), residual))
        return self._plan()(x, residual)

    def _prepare(self) -> LinearPlan:
        return LinearPlan(*self.arguments())

    def extra_repr(self) -> str:
        """The shape."""
        return f"(C_out, C_in)={self.spec.weight_shape[:2]}"
