"""Finds and loads the native kernels, and chooses their instruction set."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path

from torch import Tensor

from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import TENSORS, Epilogue, InputSide, tensors_of
from rebnn_mm.errors import UserError

LIBRARY_NAME = "librebnn_kernels" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
ABI_VERSION = 11
ISA_VARIABLE = "REBNN_MM_ISA"
PURE_TORCH = "torch"

# enum rebnn_format
NCHW, NHWC, SIGNS = 0, 1, 2

STATUS = {
    1: "this processor does not have the instruction set",
    2: "an argument is out of range",
    3: "out of memory",
}

_override: str | None = None


class Conv2dSpec(ctypes.Structure):
    """``rebnn_conv2d_spec`` of rebnn_kernels.h: pointers to float32 (``bits``: uint8), None for a missing one."""

    SIZES = (
        *("c_in", "c_out", "kernel_h", "kernel_w", "stride_h", "stride_w", "padding_h", "padding_w"),
        *("dilation_h", "dilation_w", "groups", "clamp", "residual_last"),
    )
    LIMITS = ("clamp_low", "clamp_high")
    POINTERS = ("bits", *TENSORS)
    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_double) for name in LIMITS),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


class Conv2dCall(ctypes.Structure):
    """``rebnn_conv2d_call`` of rebnn_kernels.h: pointers, None for a missing one, with their sizes."""

    _fields_ = [
        *(
            (name, kind)
            for memory in ("plan", "tables", "workspace")
            for name, kind in ((memory, ctypes.c_void_p), (f"{memory}_bytes", ctypes.c_int64))
        ),
        *(("x", ctypes.c_void_p), ("x_size", ctypes.c_int64), ("x_pixel", ctypes.c_int64)),
        *(("n", ctypes.c_int64), ("residual", ctypes.c_void_p)),
        *(("out", ctypes.c_void_p), ("out_size", ctypes.c_int64)),
        *(("signs", ctypes.c_void_p), ("signs_size", ctypes.c_int64)),
        *((name, ctypes.c_int32) for name in ("x_format", "out_channels_last", "threads")),
    ]


class RealConv2dCall(ctypes.Structure):
    """``rebnn_real_conv2d_call`` of rebnn_kernels.h."""

    SIZES = ("n", "h", "w", "c_in", "c_out", "kernel_h", "kernel_w", "stride", "padding", "chunk")
    _fields_ = [
        *(("x", ctypes.c_void_p), ("x_size", ctypes.c_int64)),
        *((name, ctypes.c_int64) for name in SIZES),
        *(("weight", ctypes.c_void_p), ("weight_size", ctypes.c_int64)),
        *(("scale", ctypes.c_void_p), ("offset", ctypes.c_void_p)),
        *(("workspace", ctypes.c_void_p), ("workspace_bytes", ctypes.c_int64)),
        *(("out", ctypes.c_void_p), ("out_size", ctypes.c_int64)),
        *((name, ctypes.c_float) for name in ("clamp_low", "clamp_high")),
        *((name, ctypes.c_int32) for name in ("x_channels_last", "max_pool", "threads")),
    ]


def conv2d_spec(spec: ConvSpec, bits: Tensor, before: InputSide, after: Epilogue) -> Conv2dSpec:
    """The struct of a layer; it points into the tensors, which the caller keeps."""
    sizes = (*spec.weight_shape[2:], *spec.stride, *spec.padding, *spec.dilation, spec.groups)
    clamp = (0.0, 0.0) if after.clamp is None else after.clamp
    pointers = {name: value.data_ptr() for name, value in tensors_of(before, after).items()}
    flags = (after.clamp is not None, after.residual_last)
    return Conv2dSpec(spec.c_in, spec.c_out, *sizes, *flags, *clamp, bits=bits.data_ptr(), **pointers)


class Library:
    """The loaded library: its functions, and the instruction sets that this processor can run, best first."""

    def __init__(self, path: Path) -> None:
        functions = ctypes.CDLL(str(path))
        if functions.rebnn_abi_version() != ABI_VERSION:
            raise OSError(f"{path} was built from other sources (another ABI version)")
        functions.rebnn_isa_name.restype = ctypes.c_char_p
        functions.rebnn_isa_name.argtypes = [ctypes.c_int32]
        spec = ctypes.POINTER(Conv2dSpec)
        functions.rebnn_conv2d_plan_bytes.restype = ctypes.c_int64
        functions.rebnn_conv2d_plan_bytes.argtypes = [ctypes.c_char_p, spec]
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        functions.rebnn_conv2d_plan.argtypes = [ctypes.c_char_p, spec, size, pointer, size]
        functions.rebnn_conv2d_tables_bytes.restype = size
        functions.rebnn_conv2d_tables_bytes.argtypes = [pointer, size, size, size]
        functions.rebnn_conv2d_tables.argtypes = [pointer, size, size, size, pointer, size]
        functions.rebnn_conv2d_workspace_bytes.restype = size
        functions.rebnn_conv2d_workspace_bytes.argtypes = [pointer, size, pointer, size, size]
        functions.rebnn_conv2d_run.argtypes = [ctypes.POINTER(Conv2dCall)]
        functions.rebnn_max_pool_run.argtypes = [
            *(ctypes.c_char_p, pointer, size, size, size, size, size),
            *(pointer, pointer, pointer, size, ctypes.c_int32),
        ]
        functions.rebnn_mean_run.argtypes = [ctypes.c_char_p, pointer, *[size] * 5, pointer, size]
        functions.rebnn_transpose_run.argtypes = [
            *(ctypes.c_char_p, pointer, size, size, size, pointer, size, ctypes.c_int32)
        ]
        functions.rebnn_real_conv2d_workspace_bytes.restype = size
        functions.rebnn_real_conv2d_workspace_bytes.argtypes = [ctypes.POINTER(RealConv2dCall)]
        functions.rebnn_real_conv2d_run.argtypes = [ctypes.c_char_p, ctypes.POINTER(RealConv2dCall)]
        functions.rebnn_depthwise_run.argtypes = [
            *(ctypes.c_char_p, pointer, size, size, size, size, size),
            *(pointer, size, size, size, size, size),
            *(pointer, pointer, pointer, ctypes.c_float, ctypes.c_float, pointer, size, ctypes.c_int32),
        ]
        functions.rebnn_set_parallel.argtypes = [pointer]
        functions.rebnn_set_parallel.restype = None
        functions.rebnn_set_parallel(_gomp_parallel())
        self.functions = functions
        names = iter(map(functions.rebnn_isa_name, count()).__next__, None)
        self.isas = [name.decode() for name in names]


def _gomp_parallel() -> int | None:
    """Address of GOMP_parallel in the libgomp that torch has loaded, or None.

    A second OpenMP runtime, or threads of our own, would compete with torch's, which keep spinning for
    milliseconds after every parallel operation.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    paths = {line.split(maxsplit=5)[5].strip() for line in maps.read_text().splitlines() if "libgomp" in line}
    # with two of them loaded, torch's is the one that lies beside torch
    for path in sorted(paths, key=lambda path: "torch" not in path):
        function = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        if function is not None:
            return ctypes.cast(function, ctypes.c_void_p).value
    return None


@cache
def load() -> Library | None:
    """The native library, or None with one warning if it was not built or cannot be loaded."""
    import torch  # noqa: F401  # its OpenMP runtime must be there before ours is looked for

    path = Path(__file__).with_name(LIBRARY_NAME)
    try:
        return Library(path)
    except OSError as error:
        reason = "was not built" if not path.exists() else f"cannot be loaded ({error})"
    warnings.warn(
        f"the native kernels {LIBRARY_NAME} {reason}: packed layers run in plain torch, with the same results "
        "but slowly. A C++17 compiler and `python setup.py build_ext --inplace` (or reinstalling) build them.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def available() -> bool:
    """Whether the native library is built and loads."""
    return load() is not None


def isas() -> list[str]:
    """What layers can run on here, best first: instruction sets of the native library, then ``torch``."""
    library = load()
    return [*(library.isas if library else []), PURE_TORCH]


def current_isa() -> str:
    """Instruction set of layers prepared now: the environment variable REBNN_MM_ISA, else the best one.

    Raises:
        ValueError: REBNN_MM_ISA names something that is unknown or cannot run here.
    """
    wanted = _override or os.environ.get(ISA_VARIABLE)
    allowed = isas()
    if not wanted:
        return allowed[0]
    if wanted not in allowed:
        raise UserError(f"{ISA_VARIABLE}={wanted!r} is unknown or cannot run here; allowed: {', '.join(allowed)}")
    return wanted


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Within the block, prepare layers for ``name`` (one of :func:`isas`), whatever the environment says."""
    global _override
    if name not in isas():
        raise UserError(f"instruction set {name!r} is unknown or cannot run here; allowed: {', '.join(isas())}")
    before = _override
    _override = name
    try:
        yield
    finally:
        _override = before


def check_status(status: int, what: str) -> None:
    """Raise RuntimeError (MemoryError when it ran out) if a library call did not return 0."""
    if status:
        error = MemoryError if status == 3 else RuntimeError
        raise error(f"{what}: {STATUS.get(status, f'unknown status {status}')}")
