"""Several trainings side by side, as figures and tables take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rebnn_mm.analysis.oscillation import Oscillation, read_oscillation
from rebnn_mm.analysis.scalars import RunScalars, read_scalars
from rebnn_mm.errors import UserError


@dataclass(frozen=True)
class Run:
    """One training: its name in legends, and what it left."""

    name: str
    record: Oscillation
    scalars: RunScalars


@dataclass(frozen=True)
class Summary:
    """One row of the table; shares are means over the last tenth of the records, NaN where there is no value.

    Attributes:
        name: Of the run.
        iterations: Done when the last record was written.
        flip_share: Signs changed from one record to the next, as a share of all.
        update_flip_share: Signs that one update changed.
        flip_back_share: Signs that returned within the window, as a share of all.
        returning: ``flip_back_share / flip_share``.
        band_share: Latent weights near zero.
        gamma: Mean over all channels.
        reconstruction: Norm of the reconstruction gradient by that of the task gradient.
        metric: Name of the first validation metric, or ''.
        last: Its last value.
        best: Its largest value.
    """

    name: str
    iterations: int
    flip_share: float
    update_flip_share: float
    flip_back_share: float
    returning: float
    band_share: float
    gamma: float
    reconstruction: float
    metric: str
    last: float
    best: float


def read_runs(work_dirs: Sequence[str | Path]) -> list[Run]:
    """Read the record and the logs of every work dir; the shortest distinct ends of the paths are their names.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_oscillation` and :func:`read_scalars`; a folder given twice; a
            record without a single entry.
    """
    paths = [Path(path).resolve() for path in work_dirs]
    if len(set(paths)) < len(paths):
        raise UserError("a work dir is given twice: name each run once")
    runs = [
        Run(name, read_oscillation(path), read_scalars(path)) for name, path in zip(_names(paths), paths, strict=True)
    ]
    for run in runs:
        if not len(run.record.iteration):
            raise UserError(
                f"{run.record.path} holds no record yet: the first comes after {run.record.header.interval} updates"
            )
    return runs


def summarize(run: Run) -> Summary:
    """The end of a run in one row."""
    last = slice(-max(len(run.record.iteration) // 10, 1), None)

    def end(column: str) -> float:
        values = run.record.network(column)[last]
        return float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else float("nan")

    flips, task = end("flip_share"), end("task_grad")
    name, curve = next(iter(run.scalars.metrics.items()), ("", None))
    return Summary(
        name=run.name,
        iterations=int(run.record.iteration[-1]),
        flip_share=flips,
        update_flip_share=end("update_flip_share"),
        flip_back_share=end("flip_back_share"),
        returning=end("flip_back_share") / flips if flips else float("nan"),
        band_share=end("band_share"),
        gamma=end("gamma_mean"),
        reconstruction=end("reconstruction_grad") / task if task else float("nan"),
        metric=name,
        last=float(curve.value[-1]) if curve else float("nan"),
        best=float(curve.value.max()) if curve else float("nan"),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]
