"""The page of a sweep, from its JSON lines."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from sweep_configs import RULES
from sweep_reasons import FAULT, STOCK

Stages = dict[str, dict[str, Any]]
DONE = "done"
STAGES = ("build", "binarize", "train", "forward", "export", "operations", "time")


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
        kind = "too large for the sweep" if not reached or "took more" in stages["end"]["killed"] else FAULT
        return kind, f"{after}: {stages['end']['killed']}"
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
        said.append(f"not trained: {stages['build']['stock_training']['kind']}")
    for key, text in (
        ("frozen", "1-bit layers are frozen"),
        ("idle_in_stock", "get no gradient in the stock model either"),
        ("one_sided", "have inputs of one sign"),
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

    return "\n".join(
        [
            "# Stock models of mmpretrain and mmdet, 1-bit by rule",
            "",
            "Written by `python benchmarks/sweep.py mmpretrain --time --page docs/sweep.md` and the same with `mmdet`. "
            "Each stock model with random weights is made 1-bit by `rebnn_mm.convert.binarize` with its defaults, "
            "trained for one step on noise, exported, and compared with its file's model. "
            "This says what runs, how large and how fast it is; it says nothing about accuracy.",
            "",
            "```",
            machine(),
            "```",
        ]
    )


def _section(library: str, found: dict[str, Stages]) -> str:
    found = {name: stages for name, stages in found.items() if "end" in stages}
    kinds = Counter(verdict(stages)[0] for stages in found.values())
    commits = sorted({stages["start"]["commit"] for stages in found.values()})
    ratios = [stages["time"]["ratio"] for stages in found.values() if stages.get("time", {}).get("ratio")]
    lines = [f"## {library}", "", f"Taken is {RULES[library]}. Commit {', '.join(commits)}.", ""]
    lines += [f"- {number} of {len(found)}: {kind}" for kind, number in kinds.most_common()]
    if ratios:
        slower = sum(ratio < 1 for ratio in ratios)
        lines.append(
            f"- {len(ratios)} timed: packed is {statistics.median(ratios):.2f} times as fast as the stock model in "
            f"torch (median), {slower} are slower"
        )
    lines += ["", *_table(found), *_faults(found)]
    return "\n".join(lines)


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
        ["", f"### {FAULT}", "", *(f"- {len(names)}: {text} ({', '.join(names)})" for text, names in rows)]
        if rows
        else []
    )


def _table(found: dict[str, Stages]) -> list[str]:
    head = ("folder", "config", "weights 1-bit", "operations 1-bit", "MB stock", "MB packed", "ms stock", "ms packed")
    rows = [(*head, "times as fast", "result")]
    rows.append(("---",) * len(rows[0]))
    order = sorted(found, key=lambda name: (verdict(found[name])[0] != DONE, verdict(found[name])[0], name))
    for name in order:
        stages = found[name]
        kind, reason = verdict(stages)
        part, file = stages.get("binarize", {}), stages.get("export", {})
        share, timed = stages.get("operations", {}), stages.get("time", {})
        text = reason if kind == DONE else f"{kind}: {reason}" if kind in (FAULT, STOCK) else f"{kind} ({reason})"
        rows.append(
            (
                name,
                stages.get("build", {}).get("config", ""),
                _number(part.get("weights"), "{:.0%}"),
                _number(share.get("operations"), "{:.0%}"),
                _number(part.get("bytes_stock"), "{:.1f}", 1e6),
                _number(file.get("bytes_packed"), "{:.1f}", 1e6),
                _number(timed.get("float"), "{:.1f}"),
                _number(timed.get("packed"), "{:.1f}"),
                _number(timed.get("ratio"), "{:.2f}"),
                text.replace("|", "/")[:200],
            )
        )
    return ["| " + " | ".join(row) + " |" for row in rows]


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else form.format(value / unit)
