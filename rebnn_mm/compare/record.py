"""``run.json`` beside a run's logs: what it was trained with, and how far it came."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import rebnn_mm
from rebnn_mm.analysis.scalars import RunScalars, read_scalars
from rebnn_mm.compare.spec import Run, Spec
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import write_text

FILE = "run.json"


@dataclass(frozen=True)
class RunRecord:
    """What is kept of a run.

    Attributes:
        config: Path of the config, as the spec gave it.
        options: ``KEY=VALUE`` words, the seed included.
        seed: The seed.
        fingerprint: SHA-256 of the config as trained: its bases and options merged.
        commit: ``git describe`` of the code at the last attempt; None outside a repository.
        state: ``'running'`` (stopped, if nothing runs now), ``'failed'`` or ``'finished'``.
        seconds: Wall time of all attempts.
        attempts: How often it was started.
    """

    config: str
    options: list[str]
    seed: int
    fingerprint: str
    commit: str | None
    state: str = "running"
    seconds: float = 0.0
    attempts: int = 0

    @classmethod
    def of(cls, run: Run) -> RunRecord:
        """The record of a run that was never started."""
        cfg = run.resolved()
        cfg.pop("work_dir", None)  # not what is trained
        text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(str(run.config), run.words(), run.seed, digest, code_version())

    @classmethod
    def load(cls, folder: Path) -> RunRecord | None:
        """The record in ``folder``, or None without one.

        Raises:
            ValueError: The file is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}; remove {folder} to train the run anew") from None

    def save(self, folder: Path) -> None:
        """Write it into ``folder``, whole or not at all."""
        write_text(folder / FILE, json.dumps(asdict(self), indent=1) + "\n", make_folder=True)

    def after(self, state: str, seconds: float) -> RunRecord:
        """The record one attempt of ``seconds`` later."""
        return replace(self, state=state, seconds=self.seconds + seconds)


def open_record(run: Run, folder: Path) -> RunRecord:
    """The record of ``run`` in its ``folder``, or a new one that was not saved yet.

    Raises:
        ValueError: The folder holds a run with other settings.
    """
    now, before = RunRecord.of(run), RunRecord.load(folder)
    if before is None:
        if any(folder.glob("*/vis_data/scalars.json")):
            raise UserError(f"{folder} holds a training without {FILE}: move it away, or choose another --out")
        return now
    if before.fingerprint == now.fingerprint:
        return before
    raise UserError(
        f"{folder} was trained with other settings ({_change(before, now)}): choose another --out, give the entry "
        f"another name, or remove {folder} to train it anew"
    )


def check_result(spec: Spec, run: Run, folder: Path) -> str | None:
    """Why the run in ``folder`` is not finished, in one sentence; None if its last epoch's metric is on record."""
    try:
        scalars = read_scalars(folder)
    except FileNotFoundError as error:
        return str(error)
    values, last = scalars.metric(spec.metric), last_step(run)
    if last in values:
        return None
    if scalars.metrics and not values:
        return f"no validation logged {spec.metric!r}, there are {', '.join(scalars.metrics)}: correct the spec"
    return (
        f"{spec.metric!r} after the last epoch or iteration ({last}) is not on record: its validation was cut short, "
        f"or the config has none then; remove {folder} to train it anew"
    )


def chosen_value(spec: Spec, scalars: RunScalars) -> float:
    """The value of a finished run that the comparison counts."""
    values = list(scalars.metric(spec.metric).values())
    best = max if spec.higher_is_better else min
    return values[-1] if spec.choose == "last" else best(values)


def last_step(run: Run) -> int:
    """The number of the run's last epoch, or iteration where the config counts these.

    Raises:
        ValueError: The config has no ``train_cfg.max_epochs`` or ``max_iters``.
    """
    loop: dict[str, Any] = run.resolved().get("train_cfg") or {}
    steps = loop.get("max_epochs") or loop.get("max_iters")
    if not steps:
        raise UserError(f"{run.config} has neither train_cfg.max_epochs nor train_cfg.max_iters: when does it end?")
    return int(steps)


def code_version() -> str | None:
    """Commit of this package's repository, ``-dirty`` with uncommitted changes; None outside one."""
    command = ["git", "-C", str(Path(rebnn_mm.__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or an installed wheel
        return None
    return done.stdout.strip()


def _change(before: RunRecord, now: RunRecord) -> str:
    def listed(words: Sequence[str], sign: str) -> list[str]:
        return [f"{sign}{word}" for word in words]

    gone = listed([word for word in before.options if word not in now.options], "-")
    new = listed([word for word in now.options if word not in before.options], "+")
    if before.config != now.config:
        gone, new = [f"-{before.config}", *gone], [f"+{now.config}", *new]
    return " ".join(gone + new) or f"{now.config} or one of its bases was edited since"
