"""The finished runs of a comparison, read from their folders."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rebnn_mm.analysis.oscillation import Oscillation, read_oscillation
from rebnn_mm.analysis.scalars import RunScalars, read_scalars
from rebnn_mm.analysis.statistics import Summary, summarize
from rebnn_mm.compare.record import RunRecord, chosen_value, open_record
from rebnn_mm.compare.spec import Run, Spec
from rebnn_mm.errors import UserError
from rebnn_mm.files.oscillation import FILE_NAME

# Name -> column of the oscillation record, and the scalar that stands in for it where a run has no record.
COURSES = {
    "flip_share": ("update_flip_share", "rebnn/flip_share"),
    "flip_back_share": ("flip_back_share", None),
    "gamma": ("gamma_mean", "rebnn/gamma"),
}


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        value: Its metric.
        record: How it was trained.
        scalars: What it logged.
        oscillation: Its oscillation record; None without an OscillationHook.
    """

    value: float
    record: RunRecord
    scalars: RunScalars
    oscillation: Oscillation | None

    def course(self, name: str) -> dict[int, float]:
        """Iteration -> a value of the whole network, one of ``COURSES``; empty if the run did not record it."""
        column, scalar = COURSES[name]
        if self.oscillation is not None:
            values = zip(self.oscillation.iteration.tolist(), self.oscillation.network(column).tolist(), strict=True)
            return {iteration: value for iteration, value in values if math.isfinite(value)}
        return self.scalars.course(scalar) if scalar else {}


@dataclass(frozen=True)
class EntryResult:
    """What the finished runs of one entry gave.

    Attributes:
        name: The entry's.
        runs: Seed -> its run.
        missing: ``NAME (STATE)`` of the runs without a result.
    """

    name: str
    runs: Mapping[int, RunResult]
    missing: tuple[str, ...]

    @property
    def values(self) -> dict[int, float]:
        """Seed -> the metric."""
        return {seed: run.value for seed, run in self.runs.items()}

    @property
    def summary(self) -> Summary | None:
        """Over the seeds; None without a finished run."""
        return summarize(list(self.values.values())) if self.runs else None

    @property
    def seconds_per_iteration(self) -> float | None:
        """Median over the runs of their median."""
        return _median(run.scalars.seconds_per_iteration for run in self.runs.values())

    def means(self, name: str) -> list[float]:
        """Mean of a course over the whole training, for each seed that recorded it."""
        return [statistics.fmean(course.values()) for run in self.runs.values() if (course := run.course(name))]

    def late(self, name: str) -> float | None:
        """Mean of a course over the last tenth of training, median over seeds; None if no run recorded it."""
        return _median(_late_mean(run.course(name)) for run in self.runs.values())


def collect(spec: Spec, out: str | Path) -> list[EntryResult]:
    """Read the runs of ``spec`` under ``out``, finished or not.

    Raises:
        ValueError: A run there was trained with other settings than the spec's, or its logs are damaged.
    """
    return [_collect_entry(spec, name, runs, Path(out)) for name, runs in spec.entries.items()]


def _collect_entry(spec: Spec, name: str, runs: tuple[Run, ...], out: Path) -> EntryResult:
    found, missing = {}, []
    for run in runs:
        folder = out / run.name
        record = open_record(run, folder)
        if record.state != "finished":
            missing.append(f"{run.name} ({record.state if record.attempts else 'not started'})")
            continue
        scalars = read_scalars(folder)
        if not scalars.metric(spec.metric):
            there = ", ".join(scalars.metrics)
            raise UserError(f"{folder} logged no {spec.metric!r}, there are {there}: correct the spec")
        oscillation = read_oscillation(folder) if (folder / FILE_NAME).exists() else None
        found[run.seed] = RunResult(chosen_value(spec, scalars), record, scalars, oscillation)
    return EntryResult(name, found, tuple(missing))


def _late_mean(course: Mapping[int, float]) -> float | None:
    last = max(course, default=0)
    late = [value for iteration, value in course.items() if iteration > 0.9 * last]
    return statistics.fmean(late) if late else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
