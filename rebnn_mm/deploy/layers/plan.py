"""A packed layer prepared once and called often; for inference, nothing has a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.kernels.buffers import Buffer, LastUsed, workspaces
from rebnn_mm.deploy.operation.bits import check_bits, from_bits
from rebnn_mm.deploy.operation.checks import check_float
from rebnn_mm.deploy.operation.reference import reference_conv2d
from rebnn_mm.deploy.operation.signs import words
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide, checked, copied

_CPU = torch.device("cpu")
_TOO_LARGE = 1 << 44  # bytes of a workspace, as in conv2d.h
SHAPES = 16  # sizes of the input whose tables a plan keeps: a detector sees its feature levels again and again

Result = Tensor | tuple[Tensor, Tensor]


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format, contiguous or channels_last, of a 4-d ``x`` and of what a layer makes of it."""
    if x.is_contiguous():
        return torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last) or x.stride(1) == 1:
        return torch.channels_last
    return torch.contiguous_format


def wider_pixel(x: Tensor) -> int:
    """Floats from one pixel of ``x`` to the next, where it is the first channels of wider pixels; 0 for all others."""
    if x.dtype != torch.float32 or x.dim() != 4:
        return 0
    _, c, h, w = x.shape
    pixel = x.stride(3)
    return pixel if pixel > c and x.stride() == (h * w * pixel, 1, w * pixel, pixel) else 0


def output_format(x: Tensor, signs: bool) -> torch.memory_format:
    """The memory format of a layer's floats: that of ``x``, and channels_last where there are signs."""
    return torch.channels_last if signs or x.dtype == torch.int32 else memory_format_of(x)


class _NativeConv2d:
    """One block of bytes for the native library; it depends on the instruction set, not on the input's shape."""

    def __init__(self, isa: str, bits: Tensor, spec: ConvSpec, before: InputSide, after: Epilogue) -> None:
        native = library.load()
        assert native is not None, "the caller chose an instruction set of the library"
        self._functions = native.functions
        self._spec, self._signs, self._floats = spec, after.sign is not None, after.floats
        native_spec = library.conv2d_spec(spec, bits, before, after)
        size = self._functions.rebnn_conv2d_plan_bytes(isa.encode(), native_spec)
        if size < 0:
            raise ValueError(f"the {isa} kernels have no plan for {spec}: sizes go up to 2**20")
        self._plan = Buffer(size)
        status = self._functions.rebnn_conv2d_plan(isa.encode(), native_spec, bits.numel(), *self._plan.with_size)
        library.check_status(status, f"preparing {spec}")
        self._tables: LastUsed[tuple[int, int], tuple[tuple[int, int], int, Buffer]] = LastUsed(SHAPES)

    def _tables_of(self, h: int, w: int) -> tuple[tuple[int, int], int, Buffer]:
        """Address and size of the tables, bytes of the workspace for each image, and what keeps the tables alive."""
        kept = self._tables.get((h, w))
        if kept is None:
            size = self._functions.rebnn_conv2d_tables_bytes(*self._plan.with_size, h, w)
            if size < 0:
                raise MemoryError(f"out of memory: an input of {h}x{w} pixels to {self._spec}")
            tables = Buffer(size)
            status = self._functions.rebnn_conv2d_tables(*self._plan.with_size, h, w, *tables.with_size)
            library.check_status(status, f"tables for an input of {h}x{w} pixels to {self._spec}")
            one = self._functions.rebnn_conv2d_workspace_bytes(*self._plan.with_size, *tables.with_size, 1)
            kept = tables.with_size, one if one >= 0 else _TOO_LARGE, tables
            self._tables.put((h, w), kept)
        return kept

    def prepare(
        self, x: Tensor, residual: Tensor | None, shape: Sequence[int], memory_format: torch.memory_format
    ) -> _Call:
        """What calls with tensors of these shapes and strides share."""
        n, c_out, out_h, out_w = shape
        pixel = wider_pixel(x)
        if x.dtype == torch.int32:
            x_format = library.SIGNS
            h, w = x.shape[1:3]
        else:
            last = pixel or x.is_contiguous(memory_format=torch.channels_last)
            x_format = library.NHWC if last else library.NCHW
            h, w = x.shape[2:]
        tables, size, kept = self._tables_of(h, w)
        size *= n
        if size >= _TOO_LARGE:
            raise MemoryError(f"out of memory: an input of {tuple(x.shape)} to {self._spec}")
        out = torch.empty(shape, device="meta", memory_format=memory_format) if self._floats else None
        signs_shape = (n, out_h, out_w, words(c_out)) if self._signs else None
        native = library.Conv2dCall(*self._plan.with_size, *tables, x_size=x.numel(), n=n, x_format=x_format)
        if pixel and n:
            native.x_pixel, native.x_size = pixel, (n * h * w - 1) * pixel + x.shape[1]
        native.out_size = 0 if out is None else out.numel()
        native.signs_size = 0 if signs_shape is None else prod(signs_shape)
        native.out_channels_last = memory_format is torch.channels_last
        like = None if out is None else (out.shape, out.stride())
        return _Call(bytes(native), size, like, signs_shape, (self._plan, kept))

    def run(self, call: _Call, x: Tensor, residual: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The layer; ``call`` was prepared for such tensors."""
        native = library.Conv2dCall.from_buffer_copy(call.native)
        native.workspace, native.workspace_bytes = workspaces.of(call.workspace).with_size
        native.x = x.data_ptr()
        if residual is not None:
            native.residual = residual.data_ptr()
        out = signs = None
        if call.like is not None:
            out = torch.empty_strided(*call.like, dtype=torch.float32, device=_CPU)
            native.out = out.data_ptr()
        if call.signs is not None:
            signs = torch.empty(call.signs, dtype=torch.int32, device=_CPU)
            native.signs = signs.data_ptr()
        native.threads = torch.get_num_threads()
        status = self._functions.rebnn_conv2d_run(native)
        if status:
            library.check_status(status, f"an input of {tuple(x.shape)} to {self._spec}")
        return out, signs


@dataclass(frozen=True)
class _Call:
    """What calls with tensors of the same shapes and strides share.

    Attributes:
        native: The bytes of a ``Conv2dCall`` without the addresses of tensors and workspace.
        workspace: Its size.
        like: Shape and strides of the floats, and ``signs`` the shape of the signs; None if there are none.
        kept: What the addresses point to.
    """

    native: bytes
    workspace: int
    like: tuple[Sequence[int], Sequence[int]] | None
    signs: Sequence[int] | None
    kept: tuple[Buffer, Buffer]


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
        self._sided = before != InputSide()
        self.isa = library.current_isa()
        self._native = None if self.isa == library.PURE_TORCH else _NativeConv2d(self.isa, *self._arguments)
        self._torch = _TorchConv2d(*self._arguments) if self._native is None else None
        # no lock: each step is one operation of the interpreter, and what is lost is only made again
        self._calls: dict[Any, _Call] = {}

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
