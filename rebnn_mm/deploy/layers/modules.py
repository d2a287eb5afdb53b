"""Packed layers: what a :class:`~rebnn_mm.layers.BinaryConv2d` of any method is after training, its weight as bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.layers.facts import AsTrained, sizes_of_spec
from rebnn_mm.deploy.layers.operators import Conv2dPlan, LinearPlan, binary_conv2d, binary_linear
from rebnn_mm.deploy.layers.prepared import Sources, is_recorded
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide, sides_of, tensors_of
from rebnn_mm.errors import UserError
from rebnn_mm.fast_path import keep_called


class PackedLayer(AsTrained):
    """The bits of a weight and the vectors of the steps around it, as buffers, and the plan that is made of them.

    The plan is made again when a buffer is another one or has changed since (``load_state_dict``, ``.to``,
    ``functional_call``), and in a process that got the module as a copy or pickled: it belongs to one instruction set,
    so it stays out of both.
    """

    bits: Tensor
    alpha: Tensor
    _operator: Callable[..., Any]
    _plan_of: Callable[..., Any]

    def __init__(self, bits: Tensor, spec: ConvSpec, before: InputSide, after: Epilogue, linear: bool = False) -> None:
        super().__init__()
        if after.sign is not None or not after.floats:
            raise ValueError("a module returns floats and no signs: give an Epilogue without sign")
        self.spec = spec
        self._clamp, self._residual_last = after.clamp, after.residual_last
        self._describe(spec.weight_shape[:2] if linear else spec.weight_shape, sizes_of_spec(spec, linear))
        self.register_buffer("bits", bits)
        for name, tensor in tensors_of(before, after).items():  # torch.export miscounts buffers that are None
            self.register_buffer(name, tensor)
        if "bias" not in self._buffers:
            self.bias = None
        self._prepared: tuple[Sources, Any] | None = None

    def arguments(self) -> tuple[Tensor, ConvSpec, InputSide, Epilogue]:
        """What the operator and its plan take, but input and residual."""
        tensors: Any = {name: tensor for name, tensor in self._buffers.items() if name != "bits"}
        return self.bits, self.spec, *sides_of(tensors, self._clamp, self._residual_last, signs=False, floats=True)

    def _plan(self) -> Any:
        prepared = self._prepared
        tensors: Any = self._buffers.values()  # none is None
        if prepared is not None and prepared[0].are(tensors):
            return prepared[1]
        sources = Sources(tensors)
        plan = self._plan_of(*self.arguments())
        self._prepared = sources, plan
        return plan

    def _run(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """By the operator where the call is recorded, by the plan elsewhere."""
        if is_recorded(x):
            return cast(Tensor, self._operator(x, *self.arguments(), residual))
        return self._plan()(x, residual)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}


class PackedConv2d(PackedLayer):
    """1-bit convolution with all that surrounds it, in one kernel call.

    (N, C_in, H, W) and a shortcut of the output's shape -> (N, C_out, H', W'), in the memory format of
    the input. Equals the trained layers in eval mode bit for bit.

    Args:
        bits: From :func:`rebnn_mm.deploy.operation.bits.to_bits`.
        spec: Sizes of the convolution.
        before, after: The real-valued steps in front of the sign and behind the convolution.
        pad: ``(left, right, top, bottom)`` and ``F.pad``'s mode, for a padding that is not zero.
        shortcut: Add the input itself, if ``forward`` is not given another shortcut.
    """

    _operator, _plan_of = staticmethod(binary_conv2d), Conv2dPlan

    def __init__(
        self,
        bits: Tensor,
        spec: ConvSpec,
        before: InputSide,
        after: Epilogue,
        pad: tuple[tuple[int, ...], str] | None = None,
        shortcut: bool = False,
    ) -> None:
        super().__init__(bits, spec, before, after)
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
        return self._run(x, residual)

    def extra_repr(self) -> str:
        """The shape."""
        return str(self.spec)


class PackedLinear(PackedLayer):
    """1-bit linear layer, (..., C_in) -> (..., C_out).

    Args:
        bits, spec, before, after: As for :class:`PackedConv2d`; ``spec`` is a :meth:`ConvSpec.linear`.
        layer_norm: Applied to the input before the sign; without parameters.
        shortcut: Add the input, as it comes, to the result.
    """

    _operator, _plan_of = staticmethod(binary_linear), LinearPlan

    def __init__(
        self,
        bits: Tensor,
        spec: ConvSpec,
        before: InputSide,
        after: Epilogue,
        layer_norm: nn.Module | None = None,
        shortcut: bool = False,
    ) -> None:
        super().__init__(bits, spec, before, after, linear=True)
        self.layer_norm = layer_norm
        self.shortcut = shortcut
        keep_called(self)
        self._plan()  # what does not fit together is said here

    def forward(self, x: Tensor) -> Tensor:
        """Sign, multiply, scale, and what else the layer was given."""
        residual = x if self.shortcut else None
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return self._run(x, residual)

    def extra_repr(self) -> str:
        """The shape."""
        return f"(C_out, C_in)={self.spec.weight_shape[:2]}"
