"""The page of a sweep: written from rows, and read again, so that it needs no other record of what was run."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from sweep_configs import LIBRARIES, RULES, folders
from sweep_reasons import FAULT
from sweep_rows import COLUMNS, DONE, Row, line_of, read_line, results, row_of, table_of

Rows = dict[str, Row]
HEAD = """\
# Stock models of mmpretrain and mmdet, 1-bit by rule, and this package's own

Written by `python benchmarks/sweep.py mmpretrain --time --page docs/sweep.md` and the same with `mmdet` and
`rebnn_mm`. Each stock model with random weights is made 1-bit by `rebnn_mm.convert.binarize` with its defaults, trained
for one step on noise, exported, and compared with its file's model. This says what runs, how large and how fast it is;
it says nothing about accuracy.

- **1-bit**: share of the model's parameters, and of the multiply-accumulates of its convolutions and linear layers,
  that are 1-bit.
- **MB**: all parameters in float32, and the packed file. Of a self-supervised model the file holds the backbone alone.
- **ms**: one image through the stock model in torch and through the packed one (of a detector through backbone and
  neck), in turn, one thread, median of 9 rounds of processor time. Ratios above 1 are faster than float.
- **equal**: the packed model's outputs against the trained model's. *exact*: the same bits. A number: the largest
  difference, relative to the largest output, where real-valued parts round in another order; the limit is 1e-4.
- **stored as**: *graph*, the whole model, which runs with torch alone; *graphs*, the named parts; *layers*, each by
  itself in the library's own code, for the reason below the table.
- **load**: processes that ran or waited while the row was timed, this one included; empty where that is not known.
- **commit**: of the package, when the row was measured."""
_LAYERWISE = "Stored layer by layer:"


def write(page: Path, files: dict[str, Path]) -> None:
    """Write the page of all libraries: rows that it has already, and in their place those of the results in ``files``.

    Raises:
        ValueError: ``page`` is there and has been written in another form.
    """
    rows = read(page)
    for library, lines in files.items():
        ended = {
            name: stages for name, stages in (results(lines) if lines.is_file() else {}).items() if "end" in stages
        }
        rows.setdefault(library, {}).update({name: row_of(stages) for name, stages in ended.items()})
    parts = [_head(), *(_section(library, found) for library, found in rows.items() if found)]
    page.write_text("\n\n".join(parts) + "\n")


def read(page: Path) -> dict[str, Rows]:
    """Library -> folder -> what the page says; no rows where there is no page.

    Raises:
        ValueError: A row of another form.
    """
    found: dict[str, Rows] = {library: {} for library in LIBRARIES}
    rows: Rows = {}
    layerwise = False
    for line in page.read_text().splitlines() if page.is_file() else ():
        if line.startswith("## "):
            rows = found.setdefault(line[3:], {})
        if line:
            layerwise = line == _LAYERWISE or (layerwise and line.startswith("- "))
        if layerwise and line.startswith("- "):
            _take_reason(rows, line)
        row = read_line(line)
        if row is not None:
            rows[row.name] = row
    return found


def _take_reason(rows: Rows, line: str) -> None:
    """``- a's neck, b: why``."""
    names, _, why = line[2:].partition(": ")
    for name in names.split(", "):
        folder, _, part = name.partition("'s ")
        row = rows[folder]
        rows[folder] = replace(row, layerwise={**row.layerwise, part or "all": why})


def _head() -> str:
    from rebnn_mm.workflows.timing import machine

    return f"{HEAD}\n\n```\n{machine()}\n```"


def _section(library: str, found: Rows) -> str:
    found = dict(sorted(found.items()))
    done = [row for row in found.values() if row.kind == DONE]
    kinds = Counter(row.kind for row in found.values())
    lines = [f"## {library}", "", f"Taken is {RULES[library]}.", ""]
    left = len(set(folders(library)) - set(found)) if find_spec(library) else 0
    lines += [f"- {number} of {len(found)}: {kind}" for kind, number in kinds.most_common()]
    lines += [f"- {left} folders are not in this table yet: the command goes on with them"] if left else []
    lines += [*_equality(done), *_times(done), *_commits(found), ""]
    lines += [*_table(done), *_layerwise(done)]
    lines += _others("Not run", [row for row in found.values() if row.kind not in (DONE, FAULT)])
    lines += _others(FAULT.capitalize(), [row for row in found.values() if row.kind == FAULT])
    return "\n".join(lines)


def _equality(done: list[Row]) -> list[str]:
    said = Counter("exact" if row.equal == "exact" else "rounding" for row in done)
    if not done:
        return []
    return [
        f"- equal after packing: {said['exact']} in every bit, {said['rounding']} up to rounding in real-valued parts"
    ]


def _times(done: list[Row]) -> list[str]:
    ratios = [row.ratio for row in done if row.ratio is not None]
    loads = [row.load for row in done if row.load is not None]
    if not ratios:
        return []
    busy = f" Load meanwhile: {statistics.median(loads):.0f} (median of {len(loads)} rows)." if loads else ""
    return [
        f"- {len(ratios)} timed: packed is {statistics.median(ratios):.2f} times as fast as the stock model in torch "
        f"(median), {sum(ratio < 1 for ratio in ratios)} are slower.{busy}"
    ]


def _commits(found: Rows) -> list[str]:
    counts = Counter(row.commit for row in found.values()).most_common()
    return [f"- commits: {', '.join(f'{commit} ({number})' for commit, number in counts)}"]


def _layerwise(done: list[Row]) -> list[str]:
    """Why models, or parts of them, are no graphs."""
    reasons: dict[str, list[str]] = {}
    for row in done:
        for part, why in row.layerwise.items():
            reasons.setdefault(why, []).append(row.name if part == "all" else f"{row.name}'s {part}")
    if not reasons:
        return []
    rows = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return ["", _LAYERWISE, "", *(f"- {', '.join(names)}: {why}" for why, names in rows)]


def _others(title: str, rows: list[Row]) -> list[str]:
    """Models that did not get through, with their reasons."""
    if not rows:
        return []
    cells = [(f"`{row.name}`", row.kind, row.reason, row.commit) for row in sorted(rows, key=lambda row: row.kind)]
    head = ("architecture", "why", "what it says", "commit")
    return ["", f"### {title}", "", *table_of(head, cells, head)]


def _table(done: list[Row]) -> list[str]:
    if not done:
        return []
    words = ("architecture, config", "equal", "stored as", "commit", "remarks")
    return table_of((words[0], *COLUMNS), [line_of(row) for row in done], words)
