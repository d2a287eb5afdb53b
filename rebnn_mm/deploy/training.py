"""The packed kernels for layers that train: their weights change with every update, so a plan lives for one call."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.kernels.unit import run_unit
from rebnn_mm.deploy.layers.plan import Conv2dPlan, LinearPlan
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide
from rebnn_mm.native import Geometry


class TrainingKernels:
    """:class:`rebnn_mm.native.Kernels` by this library, for one of its instruction sets."""

    def __init__(self, isa: str) -> None:
        self.isa = isa

    def convolve(
        self,
        x: Tensor,
        latent: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        how: Geometry,
        shift: Tensor | None = None,
    ) -> Tensor:
        """``conv2d(sign(x + shift), sign(latent)) * scale + bias`` of (N, C_in, H, W), in ``x``'s memory format."""
        spec = ConvSpec.of(latent.shape, *how)
        plan = Conv2dPlan(to_bits(latent), spec, InputSide(shift), _after(latent, scale, bias))
        return plan(x.detach())  # type: ignore[return-value]

    def multiply(self, x: Tensor, latent: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        """``linear(sign(x), sign(latent)) * scale + bias`` of (..., C_in)."""
        spec = ConvSpec.linear(*latent.shape)
        plan = LinearPlan(to_bits(latent), spec, InputSide(), _after(latent, scale, bias))
        return plan(x.detach())  # type: ignore[return-value]

    def unit(self, step: int, like: Tensor, polynomial: bool = False, **tensors: Tensor | None) -> None:
        """An elementwise step; see :class:`rebnn_mm.native.Kernels`."""
        run_unit(self.isa, step, like, polynomial, tensors)


def _after(latent: Tensor, scale: Tensor | None, bias: Tensor | None) -> Epilogue:
    one = latent.new_ones(latent.shape[0], dtype=torch.float32)
    return Epilogue(one if scale is None else scale.detach(), bias)


@cache
def _built() -> bool:
    """Whether there is a library: its absence is no news to those who train and do not deploy."""
    return Path(library.__file__).with_name(library.LIBRARY_NAME).exists()


def training_kernels() -> TrainingKernels | None:
    """The kernels, or None where the library was not built, or ``REBNN_MM_ISA=torch`` says to go without."""
    if not _built():
        return None
    isa = library.current_isa()
    return None if isa == library.PURE_TORCH else TrainingKernels(isa)
