"""GLUE's tsv files as published: quotes are plain text, a BOM may be there, CoLA has no header, QQP has torn rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log

from rebnn_mm.bert.tasks import GlueTask
from rebnn_mm.errors import MissingFileError, UserError

# More torn rows than this, and than one in a hundred, are not what is published but a damaged file.
_FEW = 100
SOURCE = "GLUE is at https://gluebenchmark.com/tasks"


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        texts: One or two.
        label: Place in the task's classes, or the number of a regression; None in a test file.
    """

    texts: tuple[str, ...]
    label: int | float | None


def read_examples(root: str | Path, task: GlueTask, split: str, malformed: str = "error") -> list[Example]:
    """Read ``root/<folder of the task>/<split>.tsv``.

    Args:
        root: Folder that holds the tasks' folders.
        task: From :func:`rebnn_mm.bert.find_task`.
        split: ``'train'``, or one of the task's ``dev`` and ``test`` splits.
        malformed: ``'error'``, or ``'skip'``: leave such rows out and log the first. A test
            file's rows cannot be left out, as a submission answers each.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An unknown split; a header without the task's columns; a malformed row, by file and line; no row.
    """
    splits = ("train", *task.dev, *task.test)
    if split not in splits or malformed not in ("error", "skip"):
        raise UserError(f"split={split!r} of {splits}, malformed={malformed!r} of ('error', 'skip')")
    path = Path(root) / task.folder / f"{split}.tsv"
    if not path.is_file():
        raise MissingFileError(
            f"no file {path} (looked at {path.absolute()}): put or link GLUE's folder {task.folder} there, or name "
            f"another place with --cfg-options data_root=FOLDER. {SOURCE}"
        )
    labelled = split not in task.test
    rows = _rows(path)
    columns, width = _columns(path, task, labelled, rows)
    examples, bad, torn, read = [], [], [], 0
    for number, cells in rows:
        read += 1
        if task.torn_rows and labelled and len(cells) < width:
            torn.append(number)
            continue
        try:
            examples.append(_example(task, cells, columns, width, labelled))
        except ValueError as error:
            reason = f"{path}, line {number}: {error}"
            if malformed == "error" or not labelled:
                raise UserError(f"{reason}; mend the row, or leave such rows out with malformed='skip'") from None
            bad.append(reason)
    if torn:
        _report_torn(path, torn, read, width)
    if bad:
        print_log(f"{len(bad)} malformed rows left out, the first: {bad[0]}", "current", logging.WARNING)
    if not examples:
        raise UserError(f"{path} has no row of data: is the download complete? {SOURCE}")
    return examples


def _report_torn(path: Path, torn: list[int], read: int, width: int) -> None:
    """Say which rows were left out; a file with many of them is refused."""
    listed = ", ".join(map(str, torn[:20])) + (f" and {len(torn) - 20} more" if len(torn) > 20 else "")
    what = f"{path}: {len(torn)} of {read} rows have fewer than {width} columns, in lines {listed}"
    if len(torn) > max(_FEW, read // 100):
        raise UserError(f"{what}; as published there are a few only: is the file damaged? {SOURCE}")
    print_log(f"{what}; they are left out, as the usual readers of this file do", "current", logging.WARNING)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each line that is not blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # without MRPC's byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}: download it again. {SOURCE}") from None
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also split at U+0085 within a sentence
        line = line.removesuffix("\r")
        if line.strip(" \r"):
            yield number, line.split("\t")


def _columns(
    path: Path, task: GlueTask, labelled: bool, rows: Iterator[tuple[int, list[str]]]
) -> tuple[tuple[int, ...], int]:
    """Places of the texts and the label, and the number of columns; takes the header off ``rows`` if there is one."""
    if task.headless is not None and labelled:
        return task.headless, max(task.headless) + 1
    _, header = next(rows, (0, []))
    wanted = (*task.texts, task.label) if labelled else task.texts
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UserError(
            f"{path}: the first line lacks the column {', '.join(map(repr, missing))}, it has {', '.join(header[:12])}"
            f"; is this GLUE's file of {task.name}? {SOURCE}"
        )
    return tuple(header.index(name) for name in wanted), len(header)


def _example(task: GlueTask, cells: list[str], columns: tuple[int, ...], width: int, labelled: bool) -> Example:
    if len(cells) != width:
        raise UserError(f"{len(cells)} columns, {width} expected")
    texts = tuple(cells[column].strip() for column in columns[: len(task.texts)])
    if not all(texts) and not (task.torn_rows and any(texts)):
        raise UserError("an empty sentence")
    return Example(texts, _label(task, cells[columns[-1]].strip()) if labelled else None)


def _label(task: GlueTask, text: str) -> int | float:
    if task.classes:
        if text not in task.classes:
            raise UserError(f"label {text!r}, one of {', '.join(task.classes)} expected")
        return task.classes.index(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 5:  # STS-B's scale
        raise UserError(f"score {text!r}, a number from 0 to 5 expected")
    return value
