"""The oscillation record of a running training: what goes wrong with the file is said once and never stops it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from rebnn_mm.files.oscillation import FILE_NAME, Header, OscillationFileError, OscillationWriter


class OscillationRecord:
    """``oscillation.bin`` in ``work_dir``, opened when the first chunk is written.

    A file that cannot be opened or written is tried again with every chunk, so that recording goes on once there is
    room; what could not be written meanwhile is missing. A file to resume that is damaged, or of another model or
    other options, is moved aside as ``oscillation_old1.bin``, and a new one is started.

    Args:
        work_dir: The training's folder.
        header: What holds for the whole file.
        resume_at: As for :class:`~rebnn_mm.files.oscillation.OscillationWriter`.

    Attributes:
        lost: Chunks that could not be written since the last one that was.
    """

    def __init__(self, work_dir: str | Path, header: Header, resume_at: int | None = None) -> None:
        self.path = Path(work_dir) / FILE_NAME
        self.header = header
        self.lost = 0
        self._resume_at = resume_at
        self._writer: OscillationWriter | None = None
        self._warned = False

    def open(self) -> bool:
        """Open the file, if that is possible; whether it was started anew."""
        self._try(self._opened)
        return self._writer is not None and self._writer.is_new

    def record(self, iteration: int, values: np.ndarray) -> None:
        """Append a record of ``values``, (layers, columns)."""
        self._append(lambda writer: writer.record(iteration, values))

    def histogram(self, iteration: int, what: int, limit: float, counts: np.ndarray) -> None:
        """Append a histogram."""
        self._append(lambda writer: writer.histogram(iteration, what, limit, counts))

    def _append(self, write: Callable[[OscillationWriter], None]) -> None:
        if not self._try(lambda: write(self._opened())):
            self.lost += 1
        elif self.lost:
            _warn(f"{self.path} is written again; {self.lost} records and histograms before are missing in it")
            self.lost, self._warned = 0, False

    def _opened(self) -> OscillationWriter:
        if self._writer is None:
            try:
                self._writer = OscillationWriter(self.path, self.header, self._resume_at)
            except OscillationFileError as error:
                aside = _move_aside(self.path)
                _warn(f"OscillationHook: {error}. It was moved to {aside}, and a new record is started")
                self._writer = OscillationWriter(self.path, self.header)
        return self._writer

    def _try(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except OSError as error:
            if not self._warned:
                _warn(
                    f"OscillationHook cannot write {self.path}: {error}. The training goes on; recording is tried "
                    "again with every record"
                )
                self._warned = True
            return False
        return True


def _move_aside(path: Path) -> Path:
    """Rename to the first free ``NAME_oldN``."""
    number = 1
    while (aside := path.with_name(f"{path.stem}_old{number}{path.suffix}")).exists():
        number += 1
    return path.rename(aside)


def _warn(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)
