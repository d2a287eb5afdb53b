"""From the runs' logs to a table, a JSON file and figures; nothing is trained here."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rebnn_mm.analysis.statistics import Summary, paired_difference
from rebnn_mm.compare.figures import draw_figures
from rebnn_mm.compare.results import EntryResult, collect
from rebnn_mm.compare.spec import Spec
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import write_text


def write_report(spec: Spec, out: str | Path) -> str:
    """Write ``results.md``, ``results.json`` and the figures into ``out``; returns the Markdown.

    Raises:
        ValueError: As :func:`collect`; or no run is finished yet.
    """
    out = Path(out)
    results = collect(spec, out)
    if not any(result.runs for result in results):
        raise UserError(f"{out} has no finished run of {spec.path} yet: there is nothing to report")
    figures = draw_figures(spec, results, out)
    text = format_markdown(spec, results, figures)
    write_text(out / "results.md", text)
    write_text(out / "results.json", json.dumps(_plain(spec, results), indent=1) + "\n")
    return text


def format_markdown(spec: Spec, results: list[EntryResult], figures: list[Path]) -> str:
    """The table, what it rests on, and links to the figures."""
    baseline = next(result for result in results if result.name == spec.baseline)
    head = ["entry", "n", spec.metric, "std", "95 % interval", f"minus {spec.baseline}", "its 95 % interval"]
    rows = [[*head, "ms an iteration", "flips", "flips back"]]
    rows += [_row(result, baseline) for result in results]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"| --- |{' ---: |' * (len(rows[0]) - 1)}")
    return (
        "\n".join([*lines, "", *_notes(spec, results), "", *(f"![{f.stem}]({f.name})" for f in figures)]).rstrip()
        + "\n"
    )


def _row(result: EntryResult, baseline: EntryResult) -> list[str]:
    summary = result.summary
    if summary is None:
        return [result.name, "0", *["-"] * 8]
    other = None if result is baseline else paired_difference(result.values, baseline.values)
    seconds = result.seconds_per_iteration
    return [
        result.name,
        str(summary.n),
        f"{summary.mean:.4g}",
        "-" if summary.std is None else f"{summary.std:.2g}",
        _interval(summary),
        _with_error(other),
        "-" if other is None else _interval(other, sign="+"),
        "-" if seconds is None else f"{1000 * seconds:.0f}",
        *("-" if (late := result.late(name)) is None else f"{late:.2g}" for name in ("flip_share", "flip_back_share")),
    ]


def _notes(spec: Spec, results: list[EntryResult]) -> list[str]:
    which = "the last validation's" if spec.choose == "last" else "the best validation's, an optimistic choice"
    notes = [
        f"{spec.metric}: {which}; {'higher' if spec.higher_is_better else 'lower'} is better. std is that of a sample, "
        "intervals are Student's. Differences are paired by seed, mean +- standard error. Flips: share of signs that "
        "one update changes; flips back: share of signs that returned to an earlier value between two snapshots of the "
        "OscillationHook; both the mean of the last tenth of training. ms: median, with the load the machine had."
    ]
    if any(len(result.runs) == 1 for result in results):
        notes.append("An entry with one seed has no spread: its difference may be chance, whatever its size.")
    if len(results) > 2:
        notes.append(
            f"{len(results) - 1} entries are compared with {spec.baseline}: of intervals without a real difference one "
            "in 20 leaves 0 out by chance."
        )
    if missing := [name for result in results for name in result.missing]:
        notes.append(f"Without a result: {', '.join(missing)}.")
    records = [run.record for result in results for run in result.runs.values()]
    commits = sorted({record.commit or "unknown" for record in records})
    notes.append(
        f"Spec {spec.path.name}, commit {', '.join(commits)}, {sum(record.seconds for record in records) / 60:.0f} "
        f"minutes of wall time over {len(records)} runs."
    )
    if len(commits) > 1:
        notes.append("The runs are of several commits: make sure that nothing between them changes the training.")
    return [line for note in notes for line in (note, "")][:-1]


def _plain(spec: Spec, results: list[EntryResult]) -> dict[str, Any]:
    pairs = {}
    for one, other in itertools.permutations(results, 2):
        difference = paired_difference(one.values, other.values)
        pairs[f"{one.name} - {other.name}"] = asdict(difference) if difference else None
    entries = {
        result.name: dict(
            summary=asdict(result.summary) if result.summary else None,
            values=result.values,
            seconds_per_iteration=result.seconds_per_iteration,
            flip_share=result.late("flip_share"),
            flip_back_share=result.late("flip_back_share"),
            missing=list(result.missing),
            runs={seed: asdict(run.record) for seed, run in result.runs.items()},
        )
        for result in results
    }
    head = dict(spec=spec.path.name, metric=spec.metric, higher_is_better=spec.higher_is_better, choose=spec.choose)
    return dict(**head, baseline=spec.baseline, entries=entries, differences=pairs)


def _interval(summary: Summary, sign: str = "") -> str:
    return "-" if summary.low is None else f"{summary.low:{sign}.4g} to {summary.high:{sign}.4g}"


def _with_error(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    return f"{summary.mean:+.3g}" + (f" +- {summary.error:.2g}" if summary.error is not None else " (one seed)")
