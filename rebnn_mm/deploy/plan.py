"""A bit-packed layer prepared once and called often; for inference, nothing has a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layer import Geometry, Pair, Parameters, RPReLUParameters, check_float
from rebnn_mm.deploy.packing import check_packed, unpack_signs
from rebnn_mm.deploy.reference import reference_conv2d

_CPU = torch.device("cpu")
_ALIGNMENT = 64  # of a plan's memory, as rebnn_kernels.h asks for


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format, contiguous or channels_last, of a 4-d ``x`` and of what a layer makes of it."""
    if x.is_contiguous():
        return torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last) or x.stride(1) == 1:
        return torch.channels_last
    return torch.contiguous_format


class _NativeConv2d:
    """One block of bytes for the native library; it depends on the instruction set, not on the input's shape."""

    def __init__(self, isa: str, packed: Tensor, geometry: Geometry, parameters: Parameters) -> None:
        native = library.load()
        assert native is not None, "the caller chose an instruction set of the library"
        self._functions = native.functions
        self._geometry = geometry
        spec = _spec(packed, geometry, parameters)
        size = self._functions.rebnn_conv2d_plan_bytes(isa.encode(), spec)
        if size < 0:
            raise ValueError(f"the {isa} kernels have no plan for {geometry}: sizes go up to 2**20")
        # no tensor: torch's default device and modes must not decide what memory this is
        self._memory = np.empty(size + _ALIGNMENT, np.uint8)
        self._size = size
        self._address = -(-self._memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        status = self._functions.rebnn_conv2d_plan(isa.encode(), spec, packed.numel(), self._address, size)
        library.check_status(status, f"preparing {geometry}")

    def __call__(
        self, x: Tensor, residual: Tensor | None, shape: Sequence[int], memory_format: torch.memory_format
    ) -> Tensor:
        out = torch.empty(shape, dtype=torch.float32, device=_CPU, memory_format=memory_format)
        n, _, h, w = x.shape
        status = self._functions.rebnn_conv2d_run(
            *(self._address, self._size),
            *(x.data_ptr(), x.numel(), n, h, w),
            memory_format is torch.channels_last,
            None if residual is None else residual.data_ptr(),
            *(out.data_ptr(), out.numel()),
            torch.get_num_threads(),
        )
        if status:
            library.check_status(status, f"an input of {tuple(x.shape)} to {self._geometry}")
        return out


def _spec(packed: Tensor, geometry: Geometry, parameters: Parameters) -> library.Conv2dSpec:
    names = ("before", "slope", "after")
    vectors = dict(zip(names, parameters.rprelu or (None,) * 3, strict=True))
    vectors |= dict(zip(("input_scale", "input_offset"), parameters.input_norm or (None, None), strict=True))
    for name in ("shift", "alpha", "bias", "scale", "offset"):
        vectors[name] = getattr(parameters, name)
    sizes = (*geometry.weight_shape[2:], *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups)
    pointers = {name: value.data_ptr() for name, value in vectors.items() if value is not None}
    return library.Conv2dSpec(geometry.c_in, geometry.c_out, *sizes, packed=packed.data_ptr(), **pointers)


class _TorchConv2d:
    """The same without the native library."""

    def __init__(self, packed: Tensor, geometry: Geometry, parameters: Parameters) -> None:
        self._weight = unpack_signs(packed, geometry.weight_shape)
        self._geometry, self._parameters = geometry, parameters

    def __call__(
        self, x: Tensor, residual: Tensor | None, shape: Sequence[int], memory_format: torch.memory_format
    ) -> Tensor:
        # autocast would count in 16 bits, which do not hold the integers
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            y = reference_conv2d(x, self._weight, self._geometry, self._parameters, residual)
            return y.contiguous(memory_format=memory_format)


class Conv2dPlan:
    """Bit-packed 2-d convolution with its real-valued steps: (N, C_in, H, W) -> (N, C_out, H', W') in float32.

    Copies what it is given, for the instruction set of :func:`rebnn_mm.deploy.kernels.library.current_isa`.
    What is pickled are the arguments: the plan is prepared anew for the instruction set of the process that reads it.
    Calls may come from several threads, and inputs may change their shape and memory format from call to call;
    the output has the input's memory format. The number of threads is torch's and does not change the result.

    Args:
        packed: Bits of the weight, see :mod:`rebnn_mm.deploy.packing`.
        alpha, shift, input_norm, bias, scale, offset, rprelu: See :class:`rebnn_mm.deploy.layer.Parameters`.
        weight_shape: (C_out, C_in/groups, K_h, K_w).
        stride, padding, dilation, groups: As of ``torch.nn.functional.conv2d``; padding is with 0, as a third value.

    Raises:
        TypeError, ValueError: An argument that does not fit, named.
    """

    def __init__(
        self,
        packed: Tensor,
        alpha: Tensor,
        *,
        weight_shape: Sequence[int],
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        shift: Tensor | None = None,
        input_norm: tuple[Tensor, Tensor] | None = None,
        bias: Tensor | None = None,
        scale: Tensor | None = None,
        offset: Tensor | None = None,
        rprelu: RPReLUParameters | None = None,
    ) -> None:
        check_packed(packed, weight_shape)
        self.geometry = Geometry.of(weight_shape, stride, padding, dilation, groups)
        given = Parameters(alpha, shift, input_norm, bias, scale, offset, rprelu)
        parameters = given.checked(self.geometry.c_in, self.geometry.c_out)
        self._packed, self._parameters = packed.detach().clone(), parameters.copied()
        self.isa = library.current_isa()
        self._run: _NativeConv2d | _TorchConv2d
        if self.isa == library.PURE_TORCH:
            self._run = _TorchConv2d(self._packed, self.geometry, self._parameters)
        else:
            self._run = _NativeConv2d(self.isa, self._packed, self.geometry, self._parameters)

    def __copy__(self) -> Conv2dPlan:
        return self  # never changed after the constructor

    def __deepcopy__(self, memo: dict) -> Conv2dPlan:
        return self

    def __reduce__(self) -> Any:
        return _make_plan, (self._packed, self._parameters, self.geometry)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Run the layer; ``residual`` has the output's shape and is added behind the batch norm.

        Raises:
            TypeError, ValueError: ``x`` or ``residual`` is not float32 on the CPU, or has another shape.
        """
        shape = self.geometry.output_shape(x)
        memory_format = memory_format_of(x)
        if x.is_neg():  # a minus sign that stands beside the memory
            x = x.resolve_neg()
        if residual is not None:
            check_float(residual, "the residual")
            if residual.shape != shape:
                raise ValueError(f"the residual has the output's shape {shape}, got {tuple(residual.shape)}")
            if residual.is_neg():
                residual = residual.resolve_neg()
            residual = residual.contiguous(memory_format=memory_format)
        return self._run(x.contiguous(memory_format=memory_format), residual, shape, memory_format)


def _make_plan(packed: Tensor, parameters: Parameters, geometry: Geometry) -> Conv2dPlan:
    """Inverse of ``Conv2dPlan.__reduce__``."""
    own: dict[str, Any] = {field.name: getattr(parameters, field.name) for field in fields(parameters)}
    return Conv2dPlan(packed, **own, **asdict(geometry))


class LinearPlan:
    """Bit-packed linear layer: (..., C_in) -> (..., C_out) in float32.

    A 1x1 convolution whose pixels are the rows of the input. Arguments and behaviour are those of
    :class:`Conv2dPlan`; ``weight_shape`` is (C_out, C_in).
    """

    def __init__(
        self,
        packed: Tensor,
        alpha: Tensor,
        *,
        weight_shape: Sequence[int],
        shift: Tensor | None = None,
        input_norm: tuple[Tensor, Tensor] | None = None,
        bias: Tensor | None = None,
        scale: Tensor | None = None,
        offset: Tensor | None = None,
        rprelu: RPReLUParameters | None = None,
    ) -> None:
        if len(weight_shape) != 2:
            raise ValueError(f"weight_shape={tuple(weight_shape)}: a linear layer has (C_out, C_in)")
        self._conv = Conv2dPlan(
            packed,
            alpha,
            weight_shape=(*weight_shape, 1, 1),
            shift=shift,
            input_norm=input_norm,
            bias=bias,
            scale=scale,
            offset=offset,
            rprelu=rprelu,
        )

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Run the layer; ``residual`` is (..., C_out)."""
        c_in, c_out = self._conv.geometry.c_in, self._conv.geometry.c_out
        if x.dim() < 1 or x.shape[-1] != c_in:
            raise ValueError(f"the input is (..., {c_in}), got {tuple(x.shape)}")
        if residual is not None and residual.shape != (*x.shape[:-1], c_out):
            raise ValueError(f"the residual is {(*x.shape[:-1], c_out)}, got {tuple(residual.shape)}")
        rows = x.numel() // c_in
        if rows == 0:
            check_float(x, "the input")
            return torch.empty((*x.shape[:-1], c_out), dtype=torch.float32, device=_CPU)
        y = self._conv(_as_pixels(x, rows), None if residual is None else _as_pixels(residual, rows))
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], c_out)


def _as_pixels(x: Tensor, rows: int) -> Tensor:
    """(..., C) as one image of a row of pixels, (1, C, 1, rows), without moving data that are dense."""
    return x.reshape(1, 1, rows, x.shape[-1]).permute(0, 3, 1, 2)
