"""Calls of the elementwise steps around a convolution that trains."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from rebnn_mm.deploy.kernels import library

_INTEGERS = ("n", "c", "plane", "size")
# name -> type of its elements; maps first, then vectors, then what is written
_TENSORS = {
    **dict.fromkeys(("values", "x", "shortcut"), torch.float32),
    **dict(counts=torch.int16, code=torch.uint8),
    **dict.fromkeys(("scale", "offset", "slope", "after"), torch.float32),
    **dict(counts_out=torch.int16, code_out=torch.uint8, out=torch.float32, sums=torch.float64),
}
_VECTORS = {"scale", "offset", "slope", "after"}
# sums of each channel that a step makes, by its number
_SUMS = {0: 2, 2: 4, 6: 1, 7: 1}


class UnitCall(ctypes.Structure):
    """``rebnn_unit_call`` of rebnn_kernels.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _INTEGERS),
        *((name, ctypes.c_void_p) for name in _TENSORS),
        *((name, ctypes.c_int32) for name in ("step", "polynomial", "threads")),
    ]


def run_unit(isa: str, step: int, like: Tensor, polynomial: bool, tensors: Mapping[str, Tensor | None]) -> None:
    """Run one step.

    Args:
        isa: Instruction set of the library.
        step: Of enum rebnn_unit_step.
        like: (N, C, H, W), or (1, C, ...) of a weight; gives the sizes.
        polynomial: The estimator.
        tensors: By name, dense, on the CPU; those that are None are left out.

    Raises:
        ValueError: A tensor of another type, device, size or memory layout than the step takes.
    """
    native = library.load()
    assert native is not None, "the caller chose an instruction set of the library"
    n, c, size = like.shape[0], like.shape[1], like.numel()
    if size == 0:
        return
    call = UnitCall(n=n, c=c, plane=size // (n * c), size=size)
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        elements = c if name in _VECTORS else c * _SUMS[step] if name == "sums" else size
        if tensor.dtype != _TENSORS[name] or not tensor.is_cpu or not tensor.is_contiguous() or tensor.is_neg():
            raise ValueError(f"{name} of step {step} is dense {_TENSORS[name]} on the CPU, got {tensor.dtype}")
        if tensor.numel() != elements:
            raise ValueError(f"{name} of step {step} has {elements} elements, got {tensor.numel()}")
        setattr(call, name, tensor.data_ptr())
    call.step, call.polynomial, call.threads = step, polynomial, torch.get_num_threads()
    function = native.functions.rebnn_unit_run
    library.check_status(function(isa.encode(), ctypes.byref(call)), f"step {step} of a unit of {tuple(like.shape)}")
