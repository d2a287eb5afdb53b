"""Which files below a folder are images: the endings that every part of the package takes, and the walk to them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from rebnn_mm.errors import UserFileError

# of class folders, shards, VOC's picture folder and calibration, whatever the case
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def is_hidden(below: str | PurePath) -> bool:
    """Whether a path below a folder is hidden, or lies in a hidden folder: ``._x.jpg`` beside ``x.jpg`` is no image."""
    return any(part.startswith(".") for part in PurePath(below).parts)


def files_below(folder: str | Path) -> list[Path]:
    """All files below a folder in sorted order, those in linked folders too, without hidden ones.

    Raises:
        UserFileError: A folder that may not be read.
    """
    return sorted(_walk(Path(folder), frozenset()))


def counts_by_suffix(files: Iterable[str | PurePath]) -> str:
    """How many files there are of each ending: ``2 file(s) .heic, 1 file(s) without suffix``."""
    counts = Counter(PurePath(file).suffix.lower() for file in files)
    return ", ".join(f"{count} file(s) {suffix or 'without suffix'}" for suffix, count in sorted(counts.items()))


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # a link that leads back up
        return
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not is_hidden(entry.name)]
    except PermissionError as error:
        raise UserFileError(f"folder {folder} cannot be read ({error.strerror}): allow it, or move it away") from None
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path), above | {real})
        elif entry.is_file():
            yield Path(entry.path)
