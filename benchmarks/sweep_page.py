"""The page of a sweep, from its JSON lines."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sweep_configs import RULES, folders
from sweep_reasons import FAULT

Stages = dict[str, dict[str, Any]]
DONE = "done"
STAGES = ("build", "binarize", "train", "forward", "export", "operations", "time")
HEAD = """\
# Stock models of mmpretrain and mmdet, 1-bit by rule

Written by `python benchmarks/sweep.py mmpretrain --time --page docs/sweep.md` and the same with `mmdet`. Each stock
model with random weights is made 1-bit by `rebnn_mm.convert.binarize` with its defaults, trained for one step on noise,
exported, and compared with its file's model. This says what runs, how large and how fast it is; it says nothing about
accuracy.

- **1-bit**: share of the model's parameters, and of the multiply-accumulates of its convolutions and linear layers,
  that are 1-bit.
- **MB**: all parameters in float32, and the packed file. Of a self-supervised model the file holds the backbone alone.
- **ms**: one image through the stock model in torch and through the packed one, in turn, one thread, median of 9 rounds
  of processor time. Ratios above 1 are faster than float.
- **equal**: the packed model's outputs against the trained model's. *exact*: the same bits. A number: the largest
  difference, relative to the largest output, where real-valued parts round in another order; the limit is 1e-4.
- **stored as**: *graph*, the whole model, which runs with torch alone; *graphs*, the named parts; *layers*, each by
  itself in the library's own code, for the reason below the table."""


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
    return DONE, "; ".join(remarks(stages))


def remarks(stages: Stages) -> list[str]:
    """What a reader should know of a model that got through."""
    train, said = stages["train"], []
    if stages["build"].get("stock_training"):
        failed = stages["build"]["stock_training"]
        said.append(f"not trained: {failed['kind']}, {_plain(failed['error'])[:80]}")
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


def summary(stages: Stages) -> str:
    """One line for the log."""
    kind, reason = verdict(stages)
    ratio = stages.get("time", {}).get("ratio")
    return f"{stages['start']['folder']:22} {kind}  {f'x{ratio:.2f}  ' if ratio else ''}{reason}"


def write(page: Path, files: dict[str, Path]) -> None:
    """Write the page of all libraries that have results."""
    parts = [_head()]
    parts += [_section(library, results(lines)) for library, lines in files.items() if lines.is_file()]
    page.write_text("\n\n".join(parts) + "\n")


def _head() -> str:
    from rebnn_mm.workflows.timing import machine

    return f"{HEAD}\n\n```\n{machine()}\n```"


def _section(library: str, found: dict[str, Stages]) -> str:
    found = {name: stages for name, stages in sorted(found.items()) if "end" in stages}
    done = {name: stages for name, stages in found.items() if verdict(stages)[0] == DONE}
    kinds = Counter(verdict(stages)[0] for stages in found.values())
    commits = sorted({stages["start"]["commit"] for stages in found.values()})
    lines = [f"## {library}", "", f"Taken is {RULES[library]}. Commit {', '.join(commits)}.", ""]
    left = len(set(folders(library)) - set(found)) if find_spec(library) else 0
    lines += [f"- {number} of {len(found)}: {kind}" for kind, number in kinds.most_common()]
    lines += [f"- {left} folders are not in this table yet: the command goes on with them"] if left else []
    lines += [*_equality(done), *_times(done), ""]
    lines += [*_table(done), *_layerwise(done), *_others(found), *_faults(found)]
    return "\n".join(lines)


def _equality(done: dict[str, Stages]) -> list[str]:
    said = Counter("exact" if equality(stages) == "exact" else "rounding" for stages in done.values())
    if not done:
        return []
    return [
        f"- equal after packing: {said['exact']} in every bit, {said['rounding']} up to rounding in real-valued parts"
    ]


def _times(done: dict[str, Stages]) -> list[str]:
    timed = [stages["time"] for stages in done.values() if stages.get("time", {}).get("ratio")]
    if not timed:
        return []
    ratios, loads = [line["ratio"] for line in timed], [line["load"] for line in timed if "load" in line]
    busy = f" Other programs ran meanwhile: load {statistics.median(loads):.0f} (median)." if loads else ""
    return [
        f"- {len(timed)} timed: packed is {statistics.median(ratios):.2f} times as fast as the stock model in torch "
        f"(median), {sum(ratio < 1 for ratio in ratios)} are slower.{busy}"
    ]


def equality(stages: Stages) -> str:
    """``exact``, or the largest relative difference that rounding made."""
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


def _layerwise(done: dict[str, Stages]) -> list[str]:
    """Why models, or parts of them, are no graphs."""
    reasons: dict[str, list[str]] = {}
    for name, stages in done.items():
        for part, why in stages["export"].get("layerwise", {}).items():
            reasons.setdefault(_plain(why), []).append(name if part == "all" else f"{name}'s {part}")
    if not reasons:
        return []
    rows = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return ["", "Stored layer by layer:", "", *(f"- {', '.join(names)}: {why}" for why, names in rows)]


def _others(found: dict[str, Stages]) -> list[str]:
    """Models that do not run here, and whose fault is not ours."""
    groups: dict[str, list[str]] = {}
    for name, stages in found.items():
        kind, reason = verdict(stages)
        if kind not in (DONE, FAULT):
            groups.setdefault(kind, []).append(f"`{name}` ({_plain(reason.partition(': ')[2])})")
    rows = [f"- **{kind}**: {'; '.join(names)}" for kind, names in groups.items()]
    return ["", "### Not run", "", *rows] if rows else []


def _faults(found: dict[str, Stages]) -> list[str]:
    """What is our fault, grouped by its text without numbers, and where it happened: innermost place of ours first."""
    groups: dict[str, list[str]] = {}
    for name, stages in found.items():
        kind, reason = verdict(stages)
        if kind == FAULT:
            failed = next((stages[stage] for stage in STAGES if not stages.get(stage, {}).get("ok", True)), {})
            place = " at " + ", ".join(f"`{part}`" for part in failed["where"]) if failed.get("where") else ""
            text = re.sub(r"\d+(\.\d+)?(e-\d+)?", "N", reason.split(", as ")[0])[:160]
            groups.setdefault(text + place, []).append(name)
    rows = sorted(groups.items(), key=lambda group: -len(group[1]))
    return (
        ["", f"### {FAULT.capitalize()}", "", *(f"- {', '.join(names)}: {text}" for text, names in rows)]
        if rows
        else []
    )


def _table(done: dict[str, Stages]) -> list[str]:
    if not done:
        return []
    head = ("architecture, config", "1-bit: weights", "operations", "MB float", "packed", "ms float", "packed", "ratio")
    rows = [(*head, "equal", "stored as", "remarks"), ("---", *["---:"] * 8, "---", "---")]
    for name, stages in done.items():
        timed = stages.get("time", {})
        rows.append(
            (
                f"{name}<br><sub>{stages['build']['config']}</sub>",
                _number(stages["binarize"]["weights"], "{:.0%}"),
                _number(stages["operations"]["operations"], "{:.0%}"),
                _number(stages["binarize"]["bytes_stock"], "{:.1f}", 1e6),
                _number(stages["export"]["bytes_packed"], "{:.1f}", 1e6),
                _number(timed.get("float"), "{:.1f}"),
                _number(timed.get("packed"), "{:.1f}"),
                _number(timed.get("ratio"), "{:.1f}"),
                equality(stages),
                form(stages),
                _plain(verdict(stages)[1]),
            )
        )
    return ["| " + " | ".join(row) + " |" for row in rows]


def _plain(text: str) -> str:
    """Without what would end a cell, and without machine-made endings."""
    text = text.replace("|", "/").replace("UserError: ", "").split("; pack it with its own code")[0]
    return text if len(text) <= 200 else f"{text[:200]}..."


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else form.format(value / unit)
