"""Time several ways to compute the same thing side by side, and say on what."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from rebnn_mm import __version__
from rebnn_mm.deploy.kernels import library

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Timing:
    """Times of one candidate, over all rounds.

    Attributes:
        name: What was timed.
        low, mid, high: 10th, 50th and 90th percentile of one call, in milliseconds.
        ratio: Median over the rounds of this time divided by the first candidate's in the same round.
        ratio_low, ratio_high: 10th and 90th percentile of that.
    """

    name: str
    low: float
    mid: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float


def compare(candidates: Mapping[str, Callable[[], Any]], rounds: int = 21, clock: str = "wall") -> list[Timing]:
    """Call all candidates in turn, ``rounds`` times (A B C A B C ...), so that a machine's moods hit all alike.

    Args:
        candidates: Name -> what to call; the first is the one that the others are divided by.
        rounds: Calls of each; two more before are not counted.
        clock: ``'wall'``, or ``'cpu'``: time of this process on all its threads, for one thread on a busy machine.

    Raises:
        ValueError: No candidate, fewer than three rounds, an unknown clock.
    """
    if not candidates or rounds < 3 or clock not in CLOCKS:
        raise ValueError(
            f"{len(candidates)} candidates, rounds={rounds}, clock={clock!r}: at least 1 and 3, and one of {[*CLOCKS]}"
        )
    now = CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.inference_mode():
        for _ in range(2):
            for call in candidates.values():
                call()
        for _ in range(rounds):
            for name, call in candidates.items():
                start = now()
                call()
                times[name].append((now() - start) * 1e3)
    first = next(iter(times.values()))
    return [_timing(name, own, [a / b for a, b in zip(own, first, strict=True)]) for name, own in times.items()]


def machine() -> str:
    """Processor, instruction sets in use, threads, load and versions, one a line."""
    lines = [
        f"processor   {_processor()}, {os.cpu_count()} cores seen",
        f"kernels     {library.current_isa()} (REBNN_MM_ISA), torch's own {torch.backends.cpu.get_cpu_capability()}",
        f"threads     {torch.get_num_threads()}",
        f"versions    rebnn_mm {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    ]
    if hasattr(os, "getloadavg"):
        lines.append(f"load        {os.getloadavg()[0]:.1f} before the run")
    return "\n".join(lines)


def format_timings(timings: list[Timing]) -> str:
    """Text table of :func:`compare`'s result."""
    width = max(len(timing.name) for timing in timings)
    head = f"{'':{width}}  {'median ms':>10}  {'p10..p90':>17}  {'times ' + timings[0].name:>14}  {'p10..p90':>13}"
    lines = [head, "-" * len(head)]
    for t in timings:
        spread, ratios = f"{t.low:.2f}..{t.high:.2f}", f"{t.ratio_low:.2f}..{t.ratio_high:.2f}"
        lines.append(f"{t.name:{width}}  {t.mid:10.2f}  {spread:>17}  {t.ratio:14.2f}  {ratios:>13}")
    return "\n".join(lines)


def _timing(name: str, times: list[float], ratios: list[float]) -> Timing:
    ratio_low, ratio, ratio_high = _percentiles(ratios)
    return Timing(name, *_percentiles(times), ratio, ratio_low, ratio_high)


def _percentiles(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    tenth = len(ordered) // 10
    return ordered[tenth], median(ordered), ordered[-1 - tenth]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith(("model name", "Model"))]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
