"""What the sweep's page says of one model: a row, made of a run's JSON lines, or read from the page as it stands."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweep_reasons import FAULT

Stages = dict[str, dict[str, Any]]
DONE = "done"
STAGES = ("build", "binarize", "train", "forward", "export", "operations", "time")
# behind the architecture's name
COLUMNS = (
    *("1-bit: weights", "operations", "MB float", "packed", "ms float", "packed", "ratio"),
    *("equal", "stored as", "load", "commit", "remarks"),
)
_EQUAL, _STORED, _LOAD, _COMMIT = (COLUMNS.index(name) for name in ("equal", "stored as", "load", "commit"))
_RATIO = COLUMNS.index("ratio")


@dataclass(frozen=True)
class Row:
    """One model, in the words of the page.

    Attributes:
        name: The folder.
        commit: Of the package when it ran.
        kind: :data:`DONE`, or a kind of :mod:`sweep_reasons`.
        reason: Why it is not done, empty if it is.
        config: The config that was taken, where it is done.
        cells: What the columns behind the name hold, where it is done.
        layerwise: Of a model that is done: part that is no graph, ``"all"`` for the model -> why.
    """

    name: str
    commit: str
    kind: str
    reason: str = ""
    config: str = ""
    cells: tuple[str, ...] = ()
    layerwise: dict[str, str] = field(default_factory=dict)

    @property
    def equal(self) -> str:
        """``exact``, or the largest relative difference that rounding made."""
        return self.cells[_EQUAL]

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the stock model; None where it was not timed."""
        return float(self.cells[_RATIO]) if self.cells and self.cells[_RATIO] else None

    @property
    def load(self) -> float | None:
        """Of the machine while it was timed; None where that is not known."""
        return float(self.cells[_LOAD]) if self.cells and self.cells[_LOAD] else None

    def is_of(self, commit: str, timed: bool) -> bool:
        """Whether it was measured with ``commit``, and with ``timed`` its time, too, where it ran."""
        return self.commit == commit and (self.kind != DONE or self.ratio is not None or not timed)


def results(lines: Path) -> dict[str, Stages]:
    """Folder -> stage -> its line, of each folder's last run."""
    found: dict[str, Stages] = {}
    for text in lines.read_text().splitlines():
        line = json.loads(text)
        if line["stage"] == "start":
            found[line["folder"]] = {}
        found.setdefault(line["folder"], {})[line["stage"]] = line
    return found


def verdict(stages: Stages) -> tuple[str, str]:
    """Kind of the result, and its reason; the first stage that failed decides."""
    for stage in STAGES:
        line = stages.get(stage)
        if line is not None and not line["ok"]:
            return line["kind"], f"{stage}: {line['error']}"
    if "killed" in stages.get("end", {}):
        reached = [stage for stage in STAGES if stage in stages]
        after = STAGES[len(reached)] if len(reached) < len(STAGES) else "the end"
        killed = stages["end"]["killed"]
        large = "took more" in killed or "exit status -9" in killed  # by the system, for its memory
        return "too large for the sweep" if large else FAULT, f"{after}: {killed}"
    idle, difference = stages["train"].get("idle"), stages["export"].get("difference")
    if idle:
        return FAULT, f"train: {len(idle)} 1-bit layers without a gradient, as {idle[0]}"
    if difference:
        return FAULT, f"export: packed differs, {difference}"
    return DONE, "; ".join(_remarks(stages))


def row_of(stages: Stages) -> Row:
    """What the lines of a run that ended say."""
    kind, reason = verdict(stages)
    name, commit = stages["start"]["folder"], stages["start"]["commit"]
    if kind != DONE:
        failed = next((stages[stage] for stage in STAGES if not stages.get(stage, {}).get("ok", True)), {})
        place = " at " + ", ".join(f"`{part}`" for part in failed["where"]) if failed.get("where") else ""
        return Row(name, commit, kind, plain(reason) + (place if kind == FAULT else ""))
    timed = stages.get("time", {})
    cells = (
        _number(stages["binarize"]["weights"], "{:.0%}"),
        _number(stages["operations"]["operations"], "{:.0%}"),
        _number(stages["binarize"]["bytes_stock"], "{:.1f}", 1e6),
        _number(stages["export"]["bytes_packed"], "{:.1f}", 1e6),
        _number(timed.get("float"), "{:.1f}"),
        _number(timed.get("packed"), "{:.1f}"),
        _number(timed.get("ratio"), "{:.2f}"),
        _equality(stages),
        form(stages),
        _number(timed.get("load"), "{:.1f}"),
        commit,
        plain(reason),
    )
    layerwise = {part: plain(why) for part, why in stages["export"].get("layerwise", {}).items()}
    return Row(name, commit, kind, "", stages["build"]["config"], cells, layerwise)


def _remarks(stages: Stages) -> list[str]:
    """What a reader should know of a model that got through."""
    train, said = stages["train"], []
    if stages["build"].get("stock_training"):
        failed = stages["build"]["stock_training"]
        said.append(f"not trained: {failed['kind']}, {plain(failed['error'])[:80]}")
    for key, text in (
        ("frozen", "1-bit layers are frozen, as in the stock model"),
        ("idle_in_stock", "1-bit layers get no gradient in the stock model either"),
        ("one_sided", "1-bit layers have inputs of one sign"),
    ):
        if train.get(key):
            said.append(f"{len(train[key])} {text}")
    if not stages["forward"]["finite"]:
        said.append("outputs are not finite")
    return said


def _equality(stages: Stages) -> str:
    rounding = stages["export"].get("rounding", 0.0)
    return f"{rounding:.0e}" if rounding else "exact"


def form(stages: Stages) -> str:
    """How the file holds the model."""
    graphs, layerwise = (stages["export"].get(key) for key in ("graphs", "layerwise"))
    if graphs == ["all"]:
        return "graph"
    if not graphs:
        return "layers"
    body = [name for name in graphs if name in ("backbone", "neck")]
    towers = len(graphs) - len(body)
    parts = [*body, *([f"{towers} {'other' if body else 'part'}{'s' if towers > 1 else ''}"] if towers else [])]
    return f"graphs: {', '.join(parts)}" + (", layers" if layerwise else "")


def plain(text: str) -> str:
    """Without what would end a cell, and without machine-made endings."""
    text = text.replace("|", "/").replace("UserError: ", "").split("; pack it with its own code")[0]
    return text if len(text) <= 200 else f"{text[:200]}..."


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else form.format(value / unit)


def table_of(head: tuple[str, ...], rows: list[tuple[str, ...]], words: tuple[str, ...]) -> list[str]:
    """A table's lines; columns that are not among ``words`` hold numbers."""
    rule = tuple("---" if name in words else "---:" for name in head)
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]


def line_of(row: Row) -> tuple[str, ...]:
    """The cells of a model that is done."""
    return (f"{row.name}<br><sub>{row.config}</sub>", *row.cells)


_NAME = re.compile(r"(?P<name>[\w+.-]+)<br><sub>(?P<config>[^<]*)</sub>")


def read_line(line: str) -> Row | None:
    """The model that a line of a table is about, but for ``layerwise``; None for all other lines.

    A line has :data:`COLUMNS` behind the name, or is (name, kind, reason, commit) of a model that is not done.

    Raises:
        ValueError: A model's line with another number of cells.
    """
    if not line.startswith("| ") or not line.endswith(" |"):
        return None
    first, *cells = (cell.strip() for cell in line[1:-1].split("|"))
    done, name = _NAME.fullmatch(first), re.fullmatch(r"`([^`]+)`", first)
    if done is not None:
        if len(cells) != len(COLUMNS):
            raise ValueError(
                f"{done['name']} has {len(cells)} cells behind its name, and there are {len(COLUMNS)} columns"
            )
        return Row(done["name"], cells[_COMMIT], DONE, "", done["config"], tuple(cells))
    if name is not None:
        if len(cells) != 3:
            raise ValueError(f"{name[1]} has {len(cells)} cells behind its name: kind, reason and commit are expected")
        kind, reason, commit = cells
        return Row(name[1], commit, kind, reason)
    return None
