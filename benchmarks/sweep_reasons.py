"""Why a model did not get through: by the text of its exception."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

FAULT = "our fault"
STOCK = "the stock model fails here"
# The first that matches counts; only what the stock model does is searched, as all else is our fault
_KINDS = (
    ("needs a network", r"URLError|ConnectionError|Max retries|couldn't connect|offline|huggingface|urlopen|HTTP"),
    ("needs a GPU operator", r"cuda|CUDA|GPU|not implemented on CPU|for device cpu|not compiled"),
    (
        "needs another package",
        r"No module named|ImportError|[Pp]lease install|is not installed|requires the|`pip install",
    ),
    ("needs text, video or several branches of data", r"^OtherInput"),
    ("no leaf config", r"is a part of other configs|FileNotFoundError"),
    ("too large for the sweep", r"MemoryError|can't allocate memory|not enough memory"),
)


def reason_of(error: BaseException, stock: bool) -> dict[str, Any]:
    """Kind of the failure, the last line of its text, and where it happened.

    Args:
        error: What was raised.
        stock: Whether the stock model raised it; if it did not, the fault is ours.
    """
    text = f"{type(error).__name__}: {error}"
    kind = FAULT
    for name, pattern in _KINDS:
        if (stock or name.startswith("too large")) and re.search(pattern, text):
            kind = name
            break
    else:
        kind = STOCK if stock else FAULT
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return dict(kind=kind, error=f"{type(error).__name__}: {last}"[:400], where=where(error))


def where(error: BaseException) -> list[str]:
    """Innermost place in this package, and the innermost of all, as ``package/file.py:line``."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [frame for frame in frames if "rebnn_mm" in frame[0].parts]
    return [_short(*frame) for frame in (ours[-1:] + frames[-1:])]


def _short(path: Path, line: int | None) -> str:
    roots = [i for i, part in enumerate(path.parts) if part in ("site-packages", "rebnn_mm", "benchmarks")]
    start = 0 if not roots else roots[-1] + (path.parts[roots[-1]] == "site-packages")
    return f"{'/'.join(path.parts[start:])}:{line}"
