"""A packed layer prepared once and called often; for inference, nothing has a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.native_conv2d import SHAPES, Call, NativeConv2d, wider_pixel
from rebnn_mm.deploy.operation.bits import check_bits, from_bits
from rebnn_mm.deploy.operation.checks import check_float
from rebnn_mm.deploy.operation.reference import reference_conv2d
from rebnn_mm.deploy.operation.signs import words
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide, checked, copied

_CPU = torch.device("cpu")

Result = Tensor | tuple[Tensor, Tensor]


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format, contiguous or channels_last, of a 4-d ``x`` and of what a layer makes of it."""
    if x.is_contiguous():
        return torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last) or x.stride(1) == 1:
        return torch.channels_last
    return torch.contiguous_format


def output_format(x: Tensor, signs: bool) -> torch.memory_format:
    """The memory format of a layer's floats: that of ``x``, and channels_last where there are signs."""
    return torch.channels_last if signs or x.dtype == torch.int32 else memory_format_of(x)


class _TorchConv2d:
    """The same without the native library."""

    def __init__(self, bits: Tensor, spec: ConvSpec, before: InputSide, after: Epilogue) -> None:
        self._weight = from_bits(bits, spec.weight_shape)
        self._spec, self._before, self._after = spec, before, after

    def run(
        self, x: Tensor, residual: Tensor | None, memory_format: torch.memory_format
    ) -> tuple[Tensor | None, Tensor | None]:
        """The layer."""
        # autocast would count in 16 bits, which do not hold the integers
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            y, signs = reference_conv2d(x, self._weight, self._spec, self._before, self._after, residual)
            return y.contiguous(memory_format=memory_format) if self._after.floats else None, signs


class Conv2dPlan:
    """Packed 2-d convolution with its real-valued steps: (N, C_in, H, W) -> (N, C_out, H', W') in float32.

    Copies what it is given, for the instruction set of :func:`rebnn_mm.deploy.kernels.library.current_isa`.
    What is pickled are the arguments: the plan is prepared anew for the instruction set of the process that reads it.
    Calls may come from several threads, and inputs may change their shape and memory format from call to call;
    the output has the input's memory format. The number of threads is torch's and does not change the result.

    Args:
        bits: Of the weight, see :mod:`rebnn_mm.deploy.operation.bits`.
        spec: Sizes of the convolution.
        before, after: The real-valued steps in front of the sign and behind the convolution.

    Raises:
        TypeError, ValueError: An argument that does not fit, named.
    """

    def __init__(self, bits: Tensor, spec: ConvSpec, before: InputSide, after: Epilogue) -> None:
        check_bits(bits, spec.weight_shape)
        before, after = copied(*checked(spec, before, after))
        self._arguments = bits.detach().clone(), spec, before, after
        self.spec, self.signs, self.floats = spec, after.sign is not None, after.floats
        self._sided = before.shift is not None or before.norm is not None
        self.isa = library.current_isa()
        self._native = None if self.isa == library.PURE_TORCH else NativeConv2d(self.isa, *self._arguments)
        self._torch = _TorchConv2d(*self._arguments) if self._native is None else None
        # no lock: each step is one operation of the interpreter, and what is lost is only made again
        self._calls: dict[Any, Call] = {}

    def __copy__(self) -> Conv2dPlan:
        return self  # never changed after the constructor

    def __deepcopy__(self, memo: dict) -> Conv2dPlan:
        return self

    def __reduce__(self) -> tuple[type[Conv2dPlan], tuple]:
        return Conv2dPlan, self._arguments

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Result:
        """Run the layer.

        Args:
            x: (N, C_in, H, W), also the first channels of a wider channels-last tensor; or signs
                (N, H, W, ceil(C_in/32)) as :class:`Epilogue` describes them; then the plan has no steps in front of
                the sign.
            residual: Has the output's shape.

        Returns:
            The result; its signs; or both, as the epilogue says. With signs on either side, floats are
            in channels_last memory.

        Raises:
            TypeError, ValueError: ``x`` or ``residual`` has another dtype, device or shape.
        """
        key = None
        if self._native is not None and _is_plain(x) and (residual is None or _is_plain(residual)):
            rest = None if residual is None else (residual.shape, residual.stride(), residual.dtype)
            key = x.shape, x.stride(), x.dtype, rest
            call = self._calls.get(key)
            if call is not None:
                return _chosen(*self._native.run(call, x, residual))
        given = x, residual
        shape = self.spec.output_shape(x)
        memory_format = output_format(x, self.signs)
        if residual is not None:
            check_float(residual, "the residual")
            if residual.shape != shape:
                raise ValueError(f"the residual has the output's shape {shape}, got {tuple(residual.shape)}")
            residual = _resolved(residual).contiguous(memory_format=memory_format)
        if x.dtype == torch.int32:
            if self._sided:
                raise ValueError("signs come behind shift and norm: this plan has a shift or norm of its own")
            x = x.contiguous()
        else:
            x = _resolved(x)
            x = x if wider_pixel(x) else x.contiguous(memory_format=memory_format_of(x))
        if self._native is None:
            assert self._torch is not None
            return _chosen(*self._torch.run(x, residual, memory_format))
        call = self._native.prepare(x, residual, shape, memory_format)
        if x is given[0] and residual is given[1]:  # no copy was needed: the next one may skip all of this
            if len(self._calls) >= SHAPES:
                self._calls.clear()
            self._calls[key] = call
        return _chosen(*self._native.run(call, x, residual))


def _is_plain(x: Tensor) -> bool:
    """Whether shape, strides and dtype say all about its memory."""
    return x.layout is torch.strided and x.is_cpu and not x.is_neg()


def _chosen(y: Tensor | None, signs: Tensor | None) -> Result:
    if y is None or signs is None:
        return y if signs is None else signs  # type: ignore[return-value]
    return y, signs


def _resolved(x: Tensor) -> Tensor:
    """``x`` without a minus sign that stands beside the memory."""
    return x.resolve_neg() if x.is_neg() else x


class LinearPlan:
    """Packed linear layer: (..., C_in) -> (..., C_out) in float32.

    A 1x1 convolution whose pixels are the rows of the input. Arguments and behaviour are those of
    :class:`Conv2dPlan`; ``spec`` is a :meth:`ConvSpec.linear`, and signs are (..., ceil(C/32)).
    """

    def __init__(self, bits: Tensor, spec: ConvSpec, before: InputSide, after: Epilogue) -> None:
        if spec != ConvSpec.linear(spec.c_out, spec.c_in):
            raise ValueError(f"a linear layer has ConvSpec.linear(c_out, c_in), got {spec}")
        self.conv = Conv2dPlan(bits, spec, before, after)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Result:
        """Run the layer; ``residual`` is (..., C_out)."""
        spec = self.conv.spec
        columns = words(spec.c_in) if x.dtype == torch.int32 else spec.c_in
        if x.dim() < 1 or x.shape[-1] != columns:
            raise ValueError(f"the input is (..., {columns}), got {tuple(x.shape)}")
        leading = x.shape[:-1]
        if residual is not None and residual.shape != (*leading, spec.c_out):
            raise ValueError(f"the residual is {(*leading, spec.c_out)}, got {tuple(residual.shape)}")
        rows = x.numel() // columns
        if rows == 0:
            if x.dtype != torch.int32:
                check_float(x, "the input")
            return self._empty(leading)
        pixels = x.reshape(1, 1, rows, columns)
        if x.dtype != torch.int32:
            pixels = pixels.permute(0, 3, 1, 2)
        rest = None if residual is None else residual.reshape(1, 1, rows, spec.c_out).permute(0, 3, 1, 2)
        result = self.conv(pixels, rest)
        if isinstance(result, tuple):
            return _as_rows(result[0], leading), _as_rows(result[1], leading)
        return _as_rows(result, leading)

    def _empty(self, leading: Sequence[int]) -> Result:
        c_out = self.conv.spec.c_out
        y = torch.empty((*leading, c_out), dtype=torch.float32, device=_CPU)
        signs = torch.empty((*leading, words(c_out)), dtype=torch.int32, device=_CPU)
        if self.conv.signs:
            return (y, signs) if self.conv.floats else signs
        return y


def _as_rows(y: Tensor, leading: Sequence[int]) -> Tensor:
    """One image of a row of pixels as (..., C)."""
    if y.dtype != torch.int32:
        y = y.permute(0, 2, 3, 1)
    return y.reshape(*leading, y.shape[-1])
