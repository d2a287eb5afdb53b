"""A packed convolution in the native library: its plan, the tables of each size of input, and the call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.kernels.buffers import Buffer, LastUsed, workspaces
from rebnn_mm.deploy.operation.signs import words
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide

_TOO_LARGE = 1 << 44  # bytes of a workspace, as in conv2d.h
SHAPES = 16  # sizes of the input whose tables a plan keeps: a detector sees its feature levels again and again
_CPU = torch.device("cpu")


def wider_pixel(x: Tensor) -> int:
    """Floats from one pixel of ``x`` to the next, where it is the first channels of wider pixels; 0 for all others."""
    if x.dtype != torch.float32 or x.dim() != 4:
        return 0
    _, c, h, w = x.shape
    pixel = x.stride(3)
    return pixel if pixel > c and x.stride() == (h * w * pixel, 1, w * pixel, pixel) else 0


class NativeConv2d:
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
    ) -> Call:
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
        return Call(bytes(native), size, like, signs_shape, (self._plan, kept))

    def run(self, call: Call, x: Tensor, residual: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
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
class Call:
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
