"""Figures of a comparison: the metric by entry, its course, and the course of the oscillation's scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from rebnn_mm.compare.results import EntryResult
from rebnn_mm.compare.spec import Spec

_LABELS = {
    "flip_share": "share of signs that an update flips",
    "flip_back_share": "share of signs that flipped back",
    "gamma": "mean gamma",
}
_POINTS = 200  # points of a curve at most, each the mean of its part


def draw_figures(spec: Spec, results: Sequence[EntryResult], out: Path) -> list[Path]:
    """Draw what the runs logged as PNG files into ``out``; returns their paths."""
    done = [result for result in results if result.runs]
    colours = _colours(results)  # an entry has one colour in all figures
    written = [_save(_draw_metric(spec, done, colours), out / "metric.png")]
    courses = {result.name: [run.scalars.metric(spec.metric) for run in result.runs.values()] for result in done}
    written.append(_save(_draw_courses(courses, colours, "epoch or iteration", spec.metric), out / "metric_course.png"))
    for name, label in _LABELS.items():
        courses = {result.name: [_thinned(run.course(name)) for run in result.runs.values()] for result in done}
        logged = {entry: lines for entry, lines in courses.items() if all(any(line.values()) for line in lines)}
        if logged:
            figure = _draw_courses(logged, colours, "iteration", label, logarithmic=True)
            written.append(_save(figure, out / f"{name}_course.png"))
    return written


def _draw_metric(spec: Spec, results: Sequence[EntryResult], colours: Mapping[str, Any]) -> Figure:
    """Every seed a point, the mean a bar across, the 95 % interval a line."""
    figure = Figure(figsize=(6.4, 1.4 + 0.36 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for place, result in enumerate(results):
        summary, colour = result.summary, colours[result.name]
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
    axes.grid(axis="x", alpha=0.3)
    return figure


def _draw_courses(
    courses: Mapping[str, Sequence[Mapping[int, float]]],
    colours: Mapping[str, Any],
    xlabel: str,
    ylabel: str,
    logarithmic: bool = False,
) -> Figure:
    """A thin line a seed, a bold one for their mean where all have a point."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for name, lines in courses.items():
        for line in lines if len(lines) > 1 else []:
            axes.plot(list(line), list(line.values()), color=colours[name], linewidth=0.7, alpha=0.35)
        steps = sorted(set.intersection(*(set(line) for line in lines)))
        means = [sum(line[step] for line in lines) / len(lines) for step in steps]
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, means, color=colours[name], linewidth=2, marker=marker, label=name)
    if logarithmic:
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _thinned(curve: Mapping[int, float]) -> dict[int, float]:
    """At most ``_POINTS`` points: each the mean of as many neighbours, at the last one's iteration."""
    steps, size = list(curve), -(-len(curve) // _POINTS) or 1
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    return {part[-1]: sum(curve[step] for step in part) / len(part) for part in parts}


def _colours(results: Sequence[EntryResult]) -> dict[str, Any]:
    palette = colormaps["tab10" if len(results) <= 10 else "tab20"]
    return {result.name: palette(place % palette.N) for place, result in enumerate(results)}


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
