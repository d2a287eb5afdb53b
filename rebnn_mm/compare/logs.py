"""What mmengine logged during a run: ``TIMESTAMP/vis_data/scalars.json`` of a work dir, all attempts merged."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunScalars:
    """The scalars of a run, as its last attempt left them; a resumed run replaces what it repeated.

    Attributes:
        train: Iteration -> logged values (``loss``, ``time``, ``rebnn/gamma`` ...), in order.
        val: Epoch (iteration, if the training counts these) -> metrics, in order.
    """

    train: dict[int, dict[str, Any]]
    val: dict[int, dict[str, Any]]

    def metric(self, name: str) -> dict[int, float]:
        """Epoch -> value of one metric; empty if it was never computed."""
        return {step: row[name] for step, row in self.val.items() if name in row}

    def metric_names(self) -> list[str]:
        """Every metric on record, sorted."""
        return sorted({key for row in self.val.values() for key in row} - {"time", "data_time"})

    def curve(self, name: str) -> dict[int, float]:
        """Iteration -> value of one scalar of training; empty if it was never logged."""
        return {step: row[name] for step, row in self.train.items() if name in row}

    @property
    def seconds_per_iteration(self) -> float | None:
        """Median of the logged times, data loading included; None if nothing was logged."""
        times = list(self.curve("time").values())
        return statistics.median(times) if times else None


def read_scalars(work_dir: str | Path) -> RunScalars:
    """Read all attempts of the run in ``work_dir``, oldest first; without any, both parts are empty.

    Raises:
        ValueError: A line that is no JSON object; only the last one of a file may be cut short, by a crash.
    """
    train: dict[int, dict[str, Any]] = {}
    val: dict[int, dict[str, Any]] = {}
    for file in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):  # mmengine's timestamps sort by time
        for row in _rows(file):
            # Rows of training carry their iteration beside the step; a validation's have the step alone.
            part = train if "iter" in row else val
            if "step" in row:
                part[row["step"]] = row
    return RunScalars(_in_order(train), _in_order(val))


def _in_order(rows: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {step: {k: v for k, v in rows[step].items() if k not in ("step", "iter", "epoch")} for step in sorted(rows)}


def _rows(file: Path) -> list[dict[str, Any]]:
    rows = []
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("no object")
        except ValueError:
            if number == len(lines):
                break
            raise ValueError(f"{file}, line {number} is no JSON object: the log is damaged") from None
        rows.append(row)
    return rows
