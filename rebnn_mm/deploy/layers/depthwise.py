"""Real-valued depthwise convolution with the norm and the clamp behind it, in one pass over channels-last memory."""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.real_steps import RealSteps, check_square, native_library
from rebnn_mm.deploy.operation.checks import check_float, check_vector
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Affine


class DepthwisePlan:
    """``clamp(fma(start + conv(x, weight), *norm))``, (N, C, H, W) -> (N, C, H', W') in float32, channels_last.

    Products are added to ``start`` by fma in the order of the taps, rows first, which need not be the order of torch:
    oneDNN starts from the bias, other libraries add it at the end. The order is the same on every instruction set and
    for any number of threads.

    Args:
        weight: (C, 1, K_h, K_w).
        spec: Its sizes: one channel a group, stride, padding and dilation alike in both directions.
        norm: (scale, offset), each (C,); a bias that is added at the end is an offset.
        clamp: (lowest, highest) value; ReLU is (0, inf).
        start: (C,), a bias that the sums start from.

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
        start: Tensor | None = None,
    ) -> None:
        native, self.isa = native_library("a DepthwisePlan")
        check_float(weight, "the weight")
        channels = spec.c_out
        if tuple(weight.shape) != spec.weight_shape or spec.groups != channels or spec.weight_shape[1] != 1:
            raise ValueError(
                f"a depthwise weight is (C, 1, K_h, K_w) of C groups, got {tuple(weight.shape)} and {spec}"
            )
        check_square(spec)
        self.spec = spec
        self._run = native.functions.rebnn_depthwise_run
        self._weight = weight.detach().resolve_neg().flatten(1).t().contiguous().clone()
        self._start = None if start is None else check_vector(start, "the bias", channels).clone()
        self._steps = RealSteps.of(channels, norm, clamp)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the layer.

        Raises:
            TypeError, ValueError: ``x`` is not float32 on the CPU, or does not fit.
        """
        shape = self.spec.output_shape(x)
        check_float(x, "the input")
        x = x.resolve_neg().contiguous(memory_format=torch.channels_last)
        out = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
        n, c, h, w = x.shape
        kernel_h, kernel_w = self.spec.weight_shape[2:]
        status = self._run(
            self.isa.encode(),
            *(x.data_ptr(), x.numel(), n, h, w, c),
            *(self._weight.data_ptr(), kernel_h, kernel_w),
            *(self.spec.stride[0], self.spec.padding[0], self.spec.dilation[0]),
            None if self._start is None else self._start.data_ptr(),
            *(*self._steps.addresses, *self._steps.clamp),
            *(out.data_ptr(), out.numel(), torch.get_num_threads()),
        )
        library.check_status(status, f"an input of {tuple(x.shape)} to the depthwise {self.spec}")
        return out
