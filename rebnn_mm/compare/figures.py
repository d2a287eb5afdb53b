"""Figures of a comparison: the metric by entry, its course, and the course of the oscillation's scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rebnn_mm.analysis.style import add_grid, add_legend, line_style, thin
from rebnn_mm.compare.results import EntryResult
from rebnn_mm.compare.spec import Spec
from rebnn_mm.files.atomic import atomic_path

_LABELS = {
    "flip_share": "share of signs that an update flips",
    "flip_back_share": "share of signs that flipped back",
    "gamma": "mean gamma",
}

Courses = Mapping[str, Sequence[Mapping[int, float]]]  # entry -> a course for each seed: step -> value
Styles = Mapping[str, dict[str, Any]]  # entry -> its line_style


def draw_figures(spec: Spec, results: Sequence[EntryResult], out: Path) -> list[Path]:
    """Draw what the runs logged as PNG files into ``out``; returns their paths."""
    done = [result for result in results if result.runs]
    styles = {result.name: line_style(place) for place, result in enumerate(results)}  # the same in all figures
    written = [_save(_draw_metric(spec, done, styles), out / "metric.png")]
    courses = {result.name: [run.scalars.metric(spec.metric) for run in result.runs.values()] for result in done}
    if any(len(line) > 1 for lines in courses.values() for line in lines):  # one validation is no course
        unit = next(iter(done[0].runs.values())).scalars.metric_unit
        written.append(_save(_draw_courses(courses, styles, unit, spec.metric), out / "metric_course.png"))
    for name, label in _LABELS.items():
        courses = {result.name: [_thinned(run.course(name)) for run in result.runs.values()] for result in done}
        logged = {entry: lines for entry, lines in courses.items() if all(any(line.values()) for line in lines)}
        if logged:
            figure = _draw_courses(logged, styles, "iteration", label, logarithmic=True)
            written.append(_save(figure, out / f"{name}_course.png"))
    return written


def _draw_metric(spec: Spec, results: Sequence[EntryResult], styles: Styles) -> Figure:
    """Every seed a point, the mean a bar across, the 95 % interval a line."""
    figure = Figure(figsize=(6.4, 1.4 + 0.36 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for place, result in enumerate(results):
        summary, colour = result.summary, styles[result.name]["color"]
        assert summary is not None  # draw_figures leaves out entries without a value
        if summary.low is not None and summary.high is not None:
            axes.plot([summary.low, summary.high], [place, place], color=colour, linewidth=2, alpha=0.5)
        axes.plot([summary.mean] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=3)
        axes.plot(list(result.values.values()), [place] * summary.n, "o", color=colour, markeredgecolor="white")
    # Two seeds can have an interval of many times their distance: it may leave the frame, the points may not.
    every = [value for result in results for value in result.values.values()]
    margin = 0.4 * (max(every) - min(every)) or 0.05 * abs(every[0]) or 1.0
    axes.set_xlim(min(every) - margin, max(every) + margin)
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlabel(f"{spec.metric}: seeds, mean and 95 % interval")
    add_grid([axes])
    return figure


def _draw_courses(courses: Courses, styles: Styles, xlabel: str, ylabel: str, logarithmic: bool = False) -> Figure:
    """A thin line a seed, a bold one for their mean where all have a point."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for name, lines in courses.items():
        for line in lines if len(lines) > 1 else []:
            axes.plot(list(line), list(line.values()), **styles[name], linewidth=0.7, alpha=0.35)
        steps = sorted(set.intersection(*(set(line) for line in lines)))
        means = [sum(line[step] for line in lines) / len(lines) for step in steps]
        axes.plot(steps, means, **styles[name], linewidth=2, marker="o" if len(steps) == 1 else "")
    if logarithmic:  # a record of no flips, as the first one's flips back are, is a gap and no line down to nowhere
        for curve in axes.lines:
            values = np.asarray(curve.get_ydata(), float)
            curve.set_ydata(np.where(values > 0, values, np.nan))
        axes.relim()
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    add_grid([axes])
    add_legend(figure, axes, {name: styles[name] for name in courses})
    return figure


def _thinned(course: Mapping[int, float]) -> dict[int, float]:
    steps, values = thin(np.array(list(course), int), np.array(list(course.values())))
    return dict(zip(steps.tolist(), values.tolist(), strict=True))


def _save(figure: Figure, path: Path) -> Path:
    with atomic_path(path) as part:
        figure.savefig(part, dpi=120, format=path.suffix[1:])
    return path
