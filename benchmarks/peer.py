"""Another run-time in a process and environment of its own, timed on request."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).with_name("peer_process.py")


class Peer:
    """A candidate of :func:`rebnn_mm.workflows.timing.compare` that runs in peer_process.py.

    Args:
        python: Interpreter that has what the peer needs.
        kind: ``'ort_fp32'``, ``'ort_int8'`` or ``'lce'`` for a layer, ``'lce_resnet18'`` for a network.
        channels, size: Of the layer; the size of the network's image.

    Raises:
        RuntimeError: The process ended; what it said stands on the screen.
    """

    def __init__(self, python: str, kind: str, channels: int, size: int) -> None:
        # -I: the script's folder must not hide packages that are named like its neighbours
        command = [python, "-I", str(SCRIPT), kind, str(channels), str(size)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None, "opened as a pipe"
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended without an answer; its own error is printed above")
        return line

    def __call__(self, calls: int) -> float:
        """CPU milliseconds of one of ``calls`` calls."""
        assert self._process.stdin is not None, "opened as a pipe"
        print(calls, file=self._process.stdin, flush=True)
        return float(self._answer())

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate("")
