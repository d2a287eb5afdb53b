"""Real-valued convolution with the norm and the clamp behind it in one pass: stems with their max-pool, 1x1 kernels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.kernels.buffers import workspaces
from rebnn_mm.deploy.layers.real_steps import RealSteps, check_square, native_library
from rebnn_mm.deploy.operation.checks import check_float
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Affine

_BLOCK = 64  # kRealBlock of kernel.h


class RealConv2dPlan:
    """``clamp(fma(conv(x, weight), *norm))``, (N, C_in, H, W) -> (N, C_out, H', W') in float32, channels_last.

    Products are added by fma, tap by tap, rows first and channels innermost, on every instruction set and for any
    number of threads. torch may add in another order.

    Args:
        weight: (C_out, C_in, K_h, K_w).
        spec: Its sizes: one group, no dilation, stride and padding alike in both directions.
        norm: (scale, offset), each (C_out,); a bias is an offset.
        clamp: (lowest, highest) value; ReLU is (0, inf).
        max_pool: Take the maximum over 3x3 windows, stride 2, padding 1, between convolution and norm.

    Raises:
        TypeError, ValueError: An argument that does not fit.
        RuntimeError: The native library is not there, or :func:`library.current_isa` is torch.
    """

    def __init__(
        self,
        weight: Tensor,
        spec: ConvSpec,
        norm: Affine | None = None,
        clamp: tuple[float, float] | None = None,
        max_pool: bool = False,
    ) -> None:
        native, isa = native_library("a RealConv2dPlan")
        check_float(weight, "the weight")
        c_out, c_in, kernel_h, kernel_w = spec.weight_shape
        if tuple(weight.shape) != spec.weight_shape or spec.groups != 1 or spec.dilation != (1, 1):
            raise ValueError(f"a weight of one group without dilation, got {tuple(weight.shape)} and {spec}")
        check_square(spec)
        self.spec, self.isa, self.max_pool = spec, isa.encode(), max_pool
        self._functions = native.functions
        self._weight = _blocks(weight.detach().resolve_neg())
        self._steps = RealSteps.of(c_out, norm, clamp)
        self._sizes = (c_in, c_out, kernel_h, kernel_w, spec.stride[0], spec.padding[0])
        self._chunk = c_in

    def in_chunks(self, chunk: int) -> RealConv2dPlan:
        """The same, with the products of every ``chunk`` channels added up by themselves, and then these sums.

        Raises:
            ValueError: The kernel is not 1x1, or ``chunk`` is below 1.
        """
        if chunk < 1 or self.spec.weight_shape[2:] != (1, 1):
            raise ValueError(f"chunk={chunk}: at least 1, and for 1x1 kernels only")
        plan = copy.copy(self)
        plan._chunk = chunk
        return plan

    def __call__(self, x: Tensor) -> Tensor:
        """Run the layer; ``x`` is in contiguous or channels_last memory.

        Raises:
            TypeError, ValueError: ``x`` is not float32 on the CPU, or does not fit.
        """
        n, c_out, h, w = self.spec.output_shape(x)
        check_float(x, "the input")
        x = x.resolve_neg()
        last = x.is_contiguous(memory_format=torch.channels_last)
        # few channels are put in order while the border is written
        if not last and (x.shape[1] > 4 or not x.is_contiguous()):
            x, last = x.contiguous(memory_format=torch.channels_last), True
        if self.max_pool:
            h, w = (h + 1) // 2, (w + 1) // 2
        out = torch.empty((n, c_out, h, w), dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
        call = library.RealConv2dCall(
            *(x.data_ptr(), x.numel(), n, *x.shape[2:], *self._sizes, self._chunk),
            *(self._weight.data_ptr(), self._weight.numel(), *self._steps.addresses),
            *(None, 0, out.data_ptr(), out.numel(), *self._steps.clamp, last, self.max_pool, torch.get_num_threads()),
        )
        size = self._functions.rebnn_real_conv2d_workspace_bytes(call)
        if size < 0:
            raise MemoryError(f"out of memory: an input of {tuple(x.shape)} to {self.spec}")
        workspace = workspaces.of(size)
        call.workspace, call.workspace_bytes = workspace.with_size
        status = self._functions.rebnn_real_conv2d_run(self.isa, call)
        library.check_status(status, f"an input of {tuple(x.shape)} to {self.spec}")
        return out


def _blocks(weight: Tensor) -> Tensor:
    """The weight as the kernels read it: (ceil(C_out / 64), K_h, K_w, C_in, 64)."""
    c_out = weight.shape[0]
    blocks = -(-c_out // _BLOCK)
    padded = weight.new_zeros(blocks * _BLOCK, *weight.shape[1:])
    padded[:c_out] = weight
    return padded.unflatten(0, (blocks, _BLOCK)).permute(0, 3, 4, 2, 1).contiguous()
