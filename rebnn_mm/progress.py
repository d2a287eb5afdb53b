"""How far a long command is: one line that is written over on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

_REDRAW = 0.1  # seconds
_LINES = 10  # of a log, for the whole command
_LISTENER: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


class Progress:
    """Counts up to ``total``, with the time that is left.

    ::

        with Progress("packing", len(files)) as progress:
            for file in files:
                ...
                progress.advance()

    Args:
        what: First word of the line.
        total: Steps.
        out: Where to write; None is stderr, so that what a command prints can be piped.
    """

    def __init__(self, what: str, total: int, out: TextIO | None = None) -> None:
        self.what, self.total = what, total
        self.out = sys.stderr if out is None else out
        self.done = 0
        self._live = self.out.isatty()
        self._start = time.monotonic()
        self._drawn = float("-inf")
        self._width = 0

    def __enter__(self) -> Progress:
        """Itself."""
        return self

    def advance(self, said: str = "") -> None:
        """One step more is done; ``said`` stands behind it."""
        self.done += 1
        now = time.monotonic()
        line = f"{self.what} {self.done}/{self.total}{self._left(now)}{' ' + said if said else ''}"
        if not self._live:
            if self.done * _LINES // self.total > (self.done - 1) * _LINES // self.total:
                print(line, file=self.out, flush=True)
        elif now - self._drawn >= _REDRAW or self.done == self.total:
            self._drawn = now
            print(f"\r{line:{self._width}}", end="", file=self.out, flush=True)
            self._width = len(line)

    def __exit__(self, *error: object) -> None:
        """Leave the line, so that what is printed next begins a new one."""
        if self._live and self._width:
            print(file=self.out, flush=True)

    def _left(self, now: float) -> str:
        if self.done == self.total:
            return f", {_clock(now - self._start)}"
        return f", {_clock((now - self._start) / self.done * (self.total - self.done))} left"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def step(text: str) -> None:
    """Say what is done next, to whoever asked with :func:`showing_steps`; nobody else hears of it."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(text)


@contextmanager
def showing_steps(what: str, out: TextIO | None = None) -> Iterator[None]:
    """Within the block every :func:`step` is shown: written over on a terminal, a line each elsewhere.

    Args:
        what: First word of the line, as the command's name.
        out: Where to write; None is stderr.
    """
    file = sys.stderr if out is None else out
    live = file.isatty()
    start, width = time.monotonic(), 0

    def show(text: str) -> None:
        nonlocal width
        line = f"{what}: {text} ({_clock(time.monotonic() - start)})"
        print(f"\r{line:{width}}" if live else line, end="" if live else "\n", file=file, flush=True)
        width = max(width, len(line))

    before = _LISTENER.set(show)
    try:
        yield
    finally:
        _LISTENER.reset(before)
        if live and width:  # the line is done with: a report or an error takes its place
            print(f"\r{'':{width}}\r", end="", file=file, flush=True)
