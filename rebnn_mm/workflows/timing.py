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
from rebnn_mm.errors import UserError
from rebnn_mm.progress import step

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time, "thread": time.thread_time}
# A candidate is called for this long in a round, so that it runs from its own caches, as in use.
BLOCK_MS = 20.0
# Thread pools spin for some milliseconds after their last work: the next candidate must not pay for that.
PAUSE_SECONDS = 0.01

Candidate = Callable[[int], float]
"""A number of calls -> milliseconds of one of them."""


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


def milliseconds(call: Callable[[], Any], clock: str = "wall") -> float:
    """Time of one call by one of :data:`CLOCKS`."""
    now = CLOCKS[clock]
    start = now()
    call()
    return (now() - start) * 1e3


def candidate(call: Callable[[], Any], threads: int | None = None, clock: str = "wall") -> Candidate:
    """``call`` as :func:`compare` takes it.

    Args:
        call: What is timed.
        threads: Of torch and the packed kernels; None leaves them as they are.
        clock: ``'wall'``, or for one thread on a busy machine ``'cpu'``, time of this process on all its threads, or
            ``'thread'``, of the calling one.

    Raises:
        ValueError: An unknown clock, fewer than one thread.
    """
    if clock not in CLOCKS or (threads is not None and threads < 1):
        raise UserError(f"clock={clock!r}, threads={threads}: one of {[*CLOCKS]}, and at least 1 thread")

    def timed(calls: int) -> float:
        def block() -> None:
            for _ in range(calls):
                call()

        if threads is not None:
            torch.set_num_threads(threads)
        return milliseconds(block, clock) / calls

    return timed


def compare(candidates: Mapping[str, Candidate], rounds: int = 21) -> list[Timing]:
    """Time all candidates in turn, ``rounds`` times (A B C A B C ...), so that load changes affect all alike.

    In its turn a candidate is called for :data:`BLOCK_MS`, after one call that does not count, or once if that
    takes longer.

    Args:
        candidates: Name -> candidate; the first is the one that the others are divided by.
        rounds: Turns of each.

    Raises:
        ValueError: No candidate, or fewer than three rounds.
    """
    if not candidates or rounds < 3:
        raise UserError(f"{len(candidates)} candidates, rounds={rounds}: at least 1 and 3")
    times: dict[str, list[float]] = {name: [] for name in candidates}
    calls = {}
    with torch.inference_mode():
        for name, timed in candidates.items():
            timed(1)
            calls[name] = max(1, round(BLOCK_MS / max(timed(2), 1e-6)))
        for number in range(rounds):
            if number % max(1, rounds // 10) == 0:
                step(f"round {number + 1} of {rounds}")
            for name, timed in candidates.items():
                time.sleep(PAUSE_SECONDS)
                if calls[name] > 1:
                    timed(1)
                times[name].append(timed(calls[name]))
    first = next(iter(times.values()))
    return [_timing(name, own, [a / b for a, b in zip(own, first, strict=True)]) for name, own in times.items()]


def machine() -> str:
    """Processor, instruction sets in use, load and versions, one a line."""
    lines = [
        f"processor   {_processor()}, {os.cpu_count()} cores seen",
        f"kernels     {library.current_isa()} (REBNN_MM_ISA), torch's own {torch.backends.cpu.get_cpu_capability()}, "
        f"limit of oneDNN {os.environ.get('ONEDNN_MAX_CPU_ISA', 'none')}",
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
        spread, ratios = f"{t.low:.3f}..{t.high:.3f}", f"{t.ratio_low:.2f}..{t.ratio_high:.2f}"
        lines.append(f"{t.name:{width}}  {t.mid:10.3f}  {spread:>17}  {t.ratio:14.2f}  {ratios:>13}")
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
