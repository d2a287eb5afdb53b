"""Times of bit-packed 3x3 layers beside float and int8 ones, one thread, float in and out.

    python -m rebnn_mm.deploy.benchmark [--rounds 31] [--onnx PYTHON] [--lce PYTHON]
    ONEDNN_MAX_CPU_ISA=AVX2 REBNN_MM_ISA=avx2 python -m rebnn_mm.deploy.benchmark

Contestants alternate in every round, and a speed-up is the median of the rounds' own ratios: on a busy machine single
times drift, ratios of neighbours hardly do. CPU time is counted, not wall time.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.ops import Conv2dPlan
from rebnn_mm.deploy.packing import pack_signs

RESNET18_LAYERS = ((64, 56), (128, 28), (256, 14), (512, 7))
ROUND_SECONDS = 0.004

Timer = Callable[[int], float]


@dataclass(frozen=True)
class Measured:
    """Times of one contestant in microseconds, and how many times faster than it the packed layer is."""

    name: str
    median: float
    low: float
    high: float
    speedup: float
    speedup_low: float
    speedup_high: float


def timer(call: Callable[[], object]) -> Timer:
    """A function of a number of calls that returns the CPU microseconds of one call."""

    def timed(calls: int) -> float:
        start = time.thread_time_ns()
        for _ in range(calls):
            call()
        return (time.thread_time_ns() - start) / calls / 1000

    return timed


def compare(timers: dict[str, Timer], rounds: int) -> list[Measured]:
    """Alternate the contestants ``rounds`` times; the first one is what the others are compared with.

    The spread is from the tenth to the ninetieth percentile.
    """
    calls = {}
    for name, timed in timers.items():
        timed(3)
        calls[name] = max(1, int(ROUND_SECONDS * 1e6 / timed(2)))
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timed in timers.items():
            times[name].append(timed(calls[name]))
    own = next(iter(times.values()))
    return [_measured(name, values, own) for name, values in times.items()]


def _measured(name: str, times: list[float], own: list[float]) -> Measured:
    def spread(values: list[float]) -> tuple[float, float, float]:
        values = sorted(values)
        return median(values), values[len(values) // 10], values[-1 - len(values) // 10]

    return Measured(name, *spread(times), *spread([theirs / ours for theirs, ours in zip(times, own, strict=True)]))


class Peer:
    """A layer of another run-time in a process of its own, see benchmark_peer.py."""

    def __init__(self, python: str, kind: str, channels: int, size: int) -> None:
        # -I: the script's folder must not hide packages that are named like its neighbours
        command = [python, "-I", str(Path(__file__).with_name("benchmark_peer.py")), kind, str(channels), str(size)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None, "opened as a pipe"
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended without an answer; its own error is printed above")
        return line

    def __call__(self, calls: int) -> float:
        """CPU microseconds of one of ``calls`` calls."""
        assert self._process.stdin is not None, "opened as a pipe"
        print(calls, file=self._process.stdin, flush=True)
        return float(self._answer())

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate("")


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor, as onnxruntime's and TFLite's own arenas do.

    By default it may return an output of some 100 KB to the system at every call, and take 200 page faults (50 us) to
    get it back. The environment variables MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ do the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        mallopt(trim_threshold, 1 << 30)
        mallopt(mmap_threshold, 1 << 25)


def packed_layer(channels: int, size: int, full: bool, memory_format: torch.memory_format) -> Timer:
    """The bit-packed layer: alpha only, or ``full`` with shift, batch norm, residual and RPReLU."""
    vector, weight = torch.rand(channels), torch.randn(channels, channels, 3, 3)
    steps: dict[str, Any] = dict(shift=vector, scale=vector, offset=vector, rprelu=(vector, vector, vector))
    plan = Conv2dPlan(pack_signs(weight), vector, weight_shape=weight.shape, padding=1, **(steps if full else {}))
    x = torch.randn(1, channels, size, size).contiguous(memory_format=memory_format)
    return timer((lambda: plan(x, x)) if full else (lambda: plan(x)))


def float_layers(channels: int, size: int) -> dict[str, Timer]:
    """The fp32 convolution of torch in eager mode, and oneDNN's with a weight packed for this shape in advance."""
    x = torch.randn(1, channels, size, size)
    last = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3)
    timers = {}
    weight_last = weight.contiguous(memory_format=torch.channels_last)
    timers["torch fp32 eager, NHWC"] = timer(lambda: nn.functional.conv2d(last, weight_last, None, 1, 1))
    if torch.backends.mkldnn.is_available():
        one = [1, 1]
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # torch's own stub lacks the last argument
        packed = reorder(weight.to_mkldnn(), one, one, one, 1, list(x.shape))

        def onednn(x: torch.Tensor) -> torch.Tensor:
            return torch.ops.mkldnn._convolution_pointwise(x, packed, None, one, one, one, 1, "none", [], "")

        timers["oneDNN fp32 prepacked, NHWC"] = timer(lambda: onednn(last))
        timers["oneDNN fp32 prepacked, NCHW"] = timer(lambda: onednn(x))
    return timers


def machine() -> str:
    """Processor, instruction sets and versions, for the head of a table."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "none")
    return (
        f"{next(named, platform.processor())}; torch {torch.__version__}, Python {platform.python_version()}; "
        f"packed kernels: {library.current_isa()}, limit of oneDNN's instruction set: {limit}; 1 thread"
    )


def main() -> None:
    """Print a table for each of ResNet-18's 3x3 layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31, help="default: 31")
    parser.add_argument("--onnx", metavar="PYTHON", help="interpreter that has onnx and onnxruntime")
    parser.add_argument("--lce", metavar="PYTHON", help="interpreter that has larq-compute-engine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    keep_freed_memory()
    print(machine())
    wanted = [(arguments.onnx, "ort_fp32"), (arguments.onnx, "ort_int8"), (arguments.lce, "lce")]
    for channels, size in RESNET18_LAYERS:
        with ExitStack() as stack:
            last, first = torch.channels_last, torch.contiguous_format
            timers = {"packed": packed_layer(channels, size, False, last)}
            timers["packed, whole unit"] = packed_layer(channels, size, True, last)
            timers["packed, NCHW"] = packed_layer(channels, size, False, first)
            timers |= float_layers(channels, size)
            for python, kind in wanted:
                if python:
                    peer = stack.enter_context(Peer(python, kind, channels, size))
                    timers[f"{peer.name} {kind}"] = peer
            print(f"\n{channels} channels at {size}x{size}: microseconds [10 %, 90 %], packed is ... times faster")
            for row in compare(timers, arguments.rounds):
                times = f"{row.median:8.1f} [{row.low:.1f}, {row.high:.1f}]"
                print(f"  {row.name:36} {times:28} {row.speedup:6.2f} [{row.speedup_low:.2f}, {row.speedup_high:.2f}]")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
