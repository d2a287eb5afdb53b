"""What the plans of real-valued layers share: the norm and the clamp behind the products, and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.operation.checks import check_vector
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Affine

_INF = float("inf")


@dataclass(frozen=True)
class RealSteps:
    """``clamp(fma(y, scale, offset))``.

    Attributes:
        scale, offset: (C,).
        clamp: (lowest, highest) value.
    """

    scale: Tensor
    offset: Tensor
    clamp: tuple[float, float]

    @classmethod
    def of(cls, channels: int, norm: Affine | None, clamp: tuple[float, float] | None) -> RealSteps:
        """Copies; without a norm 1 and -0.0, which change no bit.

        Raises:
            TypeError, ValueError: The norm is not float32 on the CPU, or of another length.
        """
        one, zero = (torch.full((channels,), value, dtype=torch.float32, device="cpu") for value in (1.0, -0.0))
        scale, offset = norm or (one, zero)
        scale = check_vector(scale, "the norm's scale", channels).clone()
        offset = check_vector(offset, "the norm's offset", channels).clone()
        low, high = clamp or (-_INF, _INF)
        return cls(scale, offset, (float(low), float(high)))

    @property
    def addresses(self) -> tuple[int, int]:
        """Of scale and offset."""
        return self.scale.data_ptr(), self.offset.data_ptr()


def native_library(name: str) -> tuple[library.Library, str]:
    """The library and the instruction set that the plan called ``name`` runs on.

    Raises:
        RuntimeError: The library is not there, or :func:`library.current_isa` is torch.
    """
    native, isa = library.load(), library.current_isa()
    if native is None or isa == library.PURE_TORCH:
        raise RuntimeError(f"{name} needs the native library; see rebnn_mm.deploy.kernels.library")
    return native, isa


def check_square(spec: ConvSpec) -> None:
    """Raise ValueError unless stride, padding and dilation are the same in both directions."""
    if any(vertical != horizontal for vertical, horizontal in (spec.stride, spec.padding, spec.dilation)):
        raise ValueError(f"stride, padding and dilation are the same in both directions, got {spec}")
