"""The finished runs of a comparison, read from their folders."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rebnn_mm.compare.logs import RunScalars, read_scalars
from rebnn_mm.analysis.statistics import Summary, summarize
from rebnn_mm.compare.record import RunRecord, chosen_value, open_record
from rebnn_mm.compare.spec import Run, Spec

FLIPS = "rebnn/flip_share"


@dataclass(frozen=True)
class EntryResult:
    """What the finished runs of one entry gave.

    Attributes:
        name: The entry's.
        values: Seed -> the metric.
        scalars: Seed -> all that the run logged.
        records: Seed -> how it was trained.
        missing: ``NAME (STATE)`` of the runs without a result.
    """

    name: str
    values: Mapping[int, float]
    scalars: Mapping[int, RunScalars]
    records: Mapping[int, RunRecord]
    missing: tuple[str, ...]

    @property
    def summary(self) -> Summary | None:
        """Over the seeds; None without a finished run."""
        return summarize(list(self.values.values())) if self.values else None

    @property
    def seconds_per_iteration(self) -> float | None:
        """Median over the runs of their median."""
        return _median(run.seconds_per_iteration for run in self.scalars.values())

    @property
    def flip_share(self) -> float | None:
        """Share of signs that an update flips, at the end: mean over the last tenth of training, median over seeds."""
        return _median(_late_mean(run.curve(FLIPS)) for run in self.scalars.values())


def collect(spec: Spec, out: str | Path) -> list[EntryResult]:
    """Read the runs of ``spec`` under ``out``, finished or not.

    Raises:
        ValueError: A run there was trained with other settings than the spec's, or its logs are damaged.
    """
    return [_collect_entry(spec, name, runs, Path(out)) for name, runs in spec.entries.items()]


def _collect_entry(spec: Spec, name: str, runs: tuple[Run, ...], out: Path) -> EntryResult:
    values, scalars, records, missing = {}, {}, {}, []
    for run in runs:
        record = open_record(run, out / run.name)
        if record.state != "finished":
            missing.append(f"{run.name} ({record.state if record.attempts else 'not started'})")
            continue
        logged = read_scalars(out / run.name)
        if not logged.metric(spec.metric):
            there = ", ".join(logged.metric_names())
            raise ValueError(f"{out / run.name} logged no {spec.metric!r}, there are {there}: correct the spec")
        values[run.seed], scalars[run.seed], records[run.seed] = chosen_value(spec, logged), logged, record
    return EntryResult(name, values, scalars, records, tuple(missing))


def _late_mean(curve: Mapping[int, float]) -> float | None:
    late = list(curve.values())[-max(1, len(curve) // 10) :]
    return statistics.fmean(late) if late else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
