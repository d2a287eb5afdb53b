"""Read the loss and metric curves of a work dir: mmengine's ``TIMESTAMP/vis_data/scalars.json``. Files only."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rebnn_mm.errors import MissingFileError, UserError

_NO_METRICS = ("step", "time", "data_time")


@dataclass(frozen=True)
class Curve:
    """One scalar over time: ``step`` (T,) and ``value`` (T,)."""

    step: np.ndarray
    value: np.ndarray

    def by_step(self) -> dict[int, float]:
        """Step -> value, in order."""
        return dict(zip(self.step.tolist(), self.value.tolist(), strict=True))


@dataclass(frozen=True)
class RunScalars:
    """What mmengine logged in a work dir, all its resumed runs joined.

    Attributes:
        train: Name -> curve over finished iterations: ``loss`` and its terms, ``lr``, ``rebnn/gamma``, ...
        metrics: Name -> curve of a validation metric, over ``metric_unit``.
        metric_unit: ``'epoch'`` or ``'iteration'``.
    """

    train: dict[str, Curve]
    metrics: dict[str, Curve]
    metric_unit: str

    def course(self, name: str) -> dict[int, float]:
        """Iteration -> value of one scalar of training; empty if it was never logged."""
        return self.train[name].by_step() if name in self.train else {}

    def metric(self, name: str) -> dict[int, float]:
        """Epoch (or iteration: ``metric_unit``) -> value of one metric; empty if it was never computed."""
        return self.metrics[name].by_step() if name in self.metrics else {}

    @property
    def seconds_per_iteration(self) -> float | None:
        """Median of the logged times, data loading included; None if nothing was logged."""
        times = self.course("time")
        return statistics.median(times.values()) if times else None


def read_scalars(work_dir: str | Path) -> RunScalars:
    """Read every log of a work dir; from where a resumed run goes on, the later log counts.

    Raises:
        FileNotFoundError: No such folder, or no log in it.
        ValueError: A log is damaged; a last line that is cut off is left out.
    """
    root = Path(work_dir)
    if not root.is_dir():
        raise MissingFileError(f"{root} is not a folder: give the work dir of a training")
    files = sorted(root.glob("*/vis_data/scalars.json"))  # timestamps: the order of time
    if not files:
        raise MissingFileError(f"{root} has no TIMESTAMP/vis_data/scalars.json: no training has logged there")
    train: list[dict[str, Any]] = []
    val: list[dict[str, Any]] = []
    for file in files:
        lines = _read_lines(file)
        train = _join(train, [line for line in lines if "iter" in line])
        val = _join(val, [line for line in lines if "iter" not in line and not _is_ours(line)])
    unit = "epoch" if any("epoch" in line for line in train) or not train else "iteration"
    return RunScalars(_curves(train, ("step", "iter", "epoch")), _curves(val, _NO_METRICS), unit)


def _read_lines(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
        except ValueError:
            if number == len(lines):  # the process was killed while writing it
                break
            raise UserError(f"{file} is damaged in line {number}: it is no JSON; copy it again or remove it") from None
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise UserError(f"{file} is no log of mmengine: line {number} has no step")
        found.append(line)
    return found


def _join(earlier: list[dict[str, Any]], later: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both, without what the later run did again."""
    return [line for line in earlier if not later or line["step"] < later[0]["step"]] + later


def _is_ours(line: dict[str, Any]) -> bool:
    return any(name.startswith("oscillation/") for name in line)


def _curves(lines: list[dict[str, Any]], without: tuple[str, ...]) -> dict[str, Curve]:
    points: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in without and isinstance(value, (int, float)):
                points.setdefault(name, []).append((line["step"], float(value)))
    return {name: Curve(*(np.array(column) for column in zip(*rows, strict=True))) for name, rows in points.items()}
