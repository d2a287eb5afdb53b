"""Figures of a comparison: the metric by entry, its course, and the course of the oscillation's scalars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rebnn_mm.analysis.style import add_grid, add_legend, line_style, thin
from rebnn_mm.compare.results import EntryResult
from rebnn_mm.compare.spec import Axis, Spec
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
    if spec.axis is not None:
        written.append(_save(_draw_axis(spec.axis, spec.metric, done), out / "metric_axis.png"))
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


def _draw_axis(axis: Axis, metric: str, results: Sequence[EntryResult]) -> Figure:
    """A line a series over the number that its entries differ by: the metric and, where known, the flips back."""
    values = {result.name: list(result.values.values()) for result in results}
    flips = {result.name: shares for result in results if (shares := result.means("flip_back_share"))}
    panels = {metric: values} | ({_LABELS["flip_back_share"]: flips} if flips else {})
    styles = {series: line_style(place) for place, series in enumerate(axis.lines)}
    figure = Figure(figsize=(6.4, 1.2 + 2.8 * len(panels)), layout="constrained")
    grid = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    for axes, (label, by_entry) in zip(grid, panels.items(), strict=True):
        axes.set_ylabel(label)
        for series, entries in axis.lines.items():
            points = {number: by_entry[entry] for number, entry in entries.items() if entry in by_entry}
            means = [statistics.fmean(of_seeds) for of_seeds in points.values()]
            axes.plot(list(points), means, **styles[series], lw=2)
            for number, of_seeds in points.items():
                axes.plot([number] * len(of_seeds), of_seeds, "o", color=styles[series]["color"], ms=4, mec="white")
    if flips:
        grid[1].set_yscale("log")
    grid[-1].set_xscale(axis.scale)
    numbers = sorted({number for entries in axis.lines.values() for number in entries})
    grid[-1].set_xticks(numbers, [f"{number:g}" for number in numbers])
    grid[-1].minorticks_off()
    grid[-1].set_xlabel(axis.label)
    add_grid(grid)
    add_legend(figure, grid[0], styles)
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
