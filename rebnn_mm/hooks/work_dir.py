"""Which checkpoints belong to a work dir, wherever it was moved or copied since it was written."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from mmengine.logging import print_log

LAST = "last_checkpoint"
LINK = "latest.pth"


def newest_checkpoint(work_dir: str | Path) -> str | None:
    """Path of the newest checkpoint of ``work_dir``, or None without one.

    mmengine's ``last_checkpoint`` holds the absolute path of the day it was written. The file of that name in the
    work dir itself goes first, so that a copy goes on from its own checkpoint and not from the original's. When the
    named file is gone, ``latest.pth`` and then the checkpoint with the highest number take its place.
    """
    work_dir = Path(work_dir)
    named = _last_checkpoint(work_dir)
    if "://" in named:
        return named
    target = _link_target(work_dir)
    if named:
        # a link written with it is relative, and leads to an out_dir elsewhere too
        linked = target if target is not None and target.name == Path(named).name else None
        for path in (linked, work_dir / Path(named).name, Path(named)):
            if path is not None and path.exists():
                return str(path)
    found = target if target is not None and target.exists() else _highest(work_dir)
    if found is not None and named:
        print_log(
            f"{work_dir}: {Path(named).name} is not there, {found.name} is the newest", "current", logging.WARNING
        )
    return None if found is None else str(found)


def same_folder(one: str | Path, other: str | Path) -> bool:
    """Whether two paths are one folder, links followed; a remote folder equals itself alone."""
    if "://" in str(one) or "://" in str(other):
        return str(one).rstrip("/") == str(other).rstrip("/")
    return os.path.realpath(one) == os.path.realpath(other)


def _last_checkpoint(work_dir: Path) -> str:
    file = work_dir / LAST
    return file.read_text().strip() if file.is_file() else ""


def _link_target(work_dir: Path) -> Path | None:
    link = work_dir / LINK
    if link.is_symlink():
        return Path(os.path.normpath(work_dir / os.readlink(link)))
    return link if link.exists() else None  # copied as a file, by a program that follows links


def _highest(work_dir: Path) -> Path | None:
    numbered = {path: re.fullmatch(r"(?:epoch|iter)_(\d+)\.pth", path.name) for path in work_dir.glob("*.pth")}
    return max(
        (path for path, match in numbered.items() if match),
        key=lambda path: int(numbered[path][1]),  # type: ignore[index]
        default=None,
    )
