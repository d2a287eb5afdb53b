"""Checks of the tensors that layers take: dense float32 on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.errors import UserTypeError


def check_vector(value: Tensor, name: str, channels: int) -> Tensor:
    """``value`` as a dense vector of ``channels`` elements, without gradient.

    Raises:
        TypeError, ValueError: It is not float32 on the CPU, or has another number of elements.
    """
    check_float(value, name)
    # one PReLU slope may serve all channels
    if name == "slope" and value.numel() == 1:
        return value.detach().resolve_neg().flatten().expand(channels).contiguous()
    if value.numel() != channels:
        raise ValueError(f"{name} has one element for each of {channels} channels, got the shape {tuple(value.shape)}")
    return value.detach().resolve_neg().flatten().contiguous()


def check_float(value: Tensor, name: str) -> None:
    """Raise TypeError unless ``value`` is a float32 tensor with memory of its own on the CPU."""
    if value.dtype != torch.float32:
        raise UserTypeError(
            f"{name} is {value.dtype}; packed layers take float32: call .float(), and run them outside of autocast"
        )
    check_cpu(value, name)


def check_cpu(value: Tensor, name: str) -> None:
    """Raise TypeError unless ``value`` is a tensor with memory of its own on the CPU."""
    if not value.is_cpu:
        raise UserTypeError(f"{name} is on {value.device}; packed layers run on the CPU: call .cpu()")
    if value.layout != torch.strided:
        raise UserTypeError(f"{name} has the layout {value.layout}; packed layers take dense ones: call .to_dense()")
