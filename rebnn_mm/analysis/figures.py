"""Figures of oscillation records; layers are rows from the first above to the last below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import erf, pi, sqrt

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from rebnn_mm.analysis.runs import Run
from rebnn_mm.analysis.scalars import Curve
from rebnn_mm.analysis.style import COLOURS, add_grid, add_legend, line_style, thin

TITLES = {
    "flip_share": "signs flipped between two records",
    "flip_back_share": "signs flipped back within the window",
    "update_flip_share": "signs flipped by one update",
    "band_share": "latent weights near zero",
    "saturated_share": "latent weights with |w| > 1",
    "dead_channel_share": "dead channels",
    "gamma_mean": "gamma, mean",
    "gamma_max": "gamma, largest",
    "alpha_mean": "alpha, mean",
    "task_grad": "norm of the task gradient dL_S/dw",
    "reconstruction_grad": "norm of the reconstruction gradient dL_R/dw",
}


def figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """All figures by the names of their files."""
    return {
        "flips": flips_figure(runs),
        "flip_share_layers": layers_figure(runs, "flip_share"),
        "flip_back_share_layers": layers_figure(runs, "flip_back_share"),
        "weights": weights_figure(runs),
        "weights_layers": weights_layers_figure(runs),
        "scales": lines_figure(runs, ("gamma_mean", "gamma_max", "alpha_mean")),
        "gamma_layers": layers_figure(runs, "gamma_mean"),
        "gradients": gradients_figure(runs),
        "curves": curves_figure(runs),
    }


def flips_figure(runs: Sequence[Run]) -> Figure:
    """Flips, flips back, the share of flips that are flips back, and weights near zero, of the whole network."""
    figure, axes = _grid(4, 2)
    for axis, column in zip(axes[:2], ("flip_share", "flip_back_share"), strict=True):
        _lines(axis, runs, lambda run, column=column: run.record.network(column), TITLES[column], _unit(column))
    _lines(axes[2], runs, _returning, "flips that are flips back", "share of flips", log=False)
    label = f"share of |w| < {runs[0].record.header.band:g} mean |w|"
    _lines(axes[3], runs, lambda run: run.record.network("band_share"), TITLES["band_share"], label, log=False)
    axes[3].axhline(_normal_share(runs[0].record.header.band), color="0.6", lw=0.8, ls=(0, (1, 2)), zorder=0)
    return _finish(figure, axes, runs)


def lines_figure(runs: Sequence[Run], columns: Sequence[str]) -> Figure:
    """One panel a column, of the whole network, the runs overlaid."""
    figure, axes = _grid(len(columns), min(len(columns), 3))
    for axis, column in zip(axes, columns, strict=True):
        _lines(axis, runs, lambda run, column=column: run.record.network(column), TITLES[column], _unit(column))
    return _finish(figure, axes, runs)


def gradients_figure(runs: Sequence[Run]) -> Figure:
    """The two parts of the gradient, and the second by the first."""
    figure, axes = _grid(3, 3)
    task, reconstruction = "task_grad", "reconstruction_grad"
    for axis, column in zip(axes, (task, reconstruction), strict=False):
        _lines(axis, runs, lambda run, column=column: run.record.network(column), TITLES[column], "norm")
    _lines(axes[2], runs, lambda run: _ratio(run, reconstruction, task), "reconstruction / task", "ratio of norms")
    return _finish(figure, axes, runs)


def layers_figure(runs: Sequence[Run], column: str) -> Figure:
    """A heat map for each run: layers by time, one colour scale for all."""
    figure, axes = _grid(len(runs), min(len(runs), 4), height=0.8 + 0.19 * _most_layers(runs))
    tables = [thin(run.record.iteration, run.record.values[column]) for run in runs]
    known = np.concatenate([table[np.isfinite(table) & (table > 0)] for _, table in tables])
    figure.suptitle(f"{TITLES[column]}, by layer", fontsize=11)
    norm = LogNorm(max(known.min(), known.max() / 1e4), known.max()) if known.size else None
    for axis, run, (iteration, table) in zip(axes, runs, tables, strict=True):
        rows = np.arange(table.shape[1] + 1)
        masked = np.ma.masked_invalid(np.where(table > 0, table, np.nan))
        mesh = axis.pcolormesh(_edges(iteration), rows, masked.T, norm=norm, cmap="viridis", rasterized=True)
        axis.set(title=run.name, xlabel="iteration", facecolor="0.88")
        axis.title.set_fontsize(10)
        axis.invert_yaxis()
        same = run is runs[0] or run.record.layers != runs[0].record.layers
        axis.set_yticks(rows[:-1] + 0.5, _short(run.record.layers) if same else [], fontsize=7)
    if known.size:
        figure.colorbar(mesh, ax=axes, label=f"{_unit(column)} (grey: 0 or none)", pad=0.02)
    else:
        axes[0].text(0.5, 0.5, "0, or not recorded", ha="center", va="center", transform=axes[0].transAxes)
    return figure


def weights_figure(runs: Sequence[Run]) -> Figure:
    """Latent weights over time: the first channel, and the first, middle and last layer; one row a run."""
    figure = Figure(figsize=(11.5, 0.9 + 2.2 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), 4, squeeze=False)
    for row, run in zip(axes, runs, strict=True):
        names = run.record.layers
        picked = [names[0], names[len(names) // 2], names[-1]]
        panels = [(f"{_short(names)[0]}, channel 0", run.record.first_channel)]
        panels += [(_short([name])[0], run.record.histograms.get(name)) for name in picked]
        for axis, (title, histogram) in zip(row, panels, strict=True):
            axis.set_title(title, fontsize=9)
            if histogram is not None:
                _heat(axis, histogram)
        row[0].set_ylabel(f"{run.name}\nlatent weight" if len(runs) > 1 else "latent weight")
    for axis in axes[-1]:
        axis.set_xlabel("iteration")
    figure.suptitle("density of the latent weights over time (dark: many; line: the sign's threshold)", fontsize=11)
    return figure


def weights_layers_figure(runs: Sequence[Run]) -> Figure:
    """Latent weights of every layer at the end, in units of their mean size: two peaks or three."""
    names = list(dict.fromkeys(name for run in runs for name in run.record.histograms))
    figure, axes = _grid(max(len(names), 1), 4, height=1.5, width=2.8)
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(_short([name])[0], fontsize=8)
        for index, run in enumerate(runs):
            histogram = run.record.histograms.get(name)
            if histogram is None:
                continue
            unit = histogram.limit / 4  # the mean |w| of that moment
            x = np.linspace(-4, 4, histogram.counts.shape[1] // 2, endpoint=False) + 8 / histogram.counts.shape[1]
            shape = (histogram.density() * unit[:, None]).reshape(len(unit), -1, 2).mean(axis=2)
            if index == 0:
                axis.fill_between(x, shape[0], color="0.85", lw=0, label="first run before training")
            axis.plot(x, shape[-1], **line_style(index), lw=1.1)
        axis.set(xlim=(-4, 4), ylim=(0, None), yticks=[])
        axis.tick_params(labelsize=7)
    figure.supxlabel("latent weight / mean |w|  (grey: before training)", fontsize=9)
    return _finish(figure, axes, runs, xlabel="")


def curves_figure(runs: Sequence[Run]) -> Figure:
    """Loss, and up to three validation metrics."""
    names = list(dict.fromkeys(name for run in runs for name in run.scalars.metrics))[:3]
    figure, axes = _grid(1 + len(names), min(1 + len(names), 2))
    _curves(axes[0], [run.scalars.train.get("loss") for run in runs], "training loss", "iteration")
    for axis, name in zip(axes[1:], names, strict=False):
        _curves(axis, [run.scalars.metrics.get(name) for run in runs], name, runs[0].scalars.metric_unit)
    return _finish(figure, axes, runs, xlabel=None)


def _curves(axis: Axes, curves: Sequence[Curve | None], title: str, unit: str) -> None:
    for index, curve in enumerate(curves):
        if curve is not None:
            step, value = thin(curve.step, curve.value)
            axis.plot(step, value, marker="." if len(step) < 30 else "", **line_style(index), lw=1.2)
    axis.set(xlabel=unit)
    axis.set_title(title, fontsize=10)


def _lines(
    axis: Axes, runs: Sequence[Run], values: Callable[[Run], np.ndarray], title: str, label: str, log: bool = True
) -> None:
    """One line a run, on a logarithmic axis if ``log`` and the values span more than a decade."""
    curves = [thin(run.record.iteration, values(run)) for run in runs]
    known = np.concatenate([value[np.isfinite(value)] for _, value in curves])
    above = known[known > 0]
    log = log and above.size > 0 and above.max() > 10 * above.min()
    for index, (iteration, value) in enumerate(curves if above.size else []):
        # dots: a value between two zeros has no line on a logarithmic axis
        drawn = np.where(value > 0, value, np.nan) if log else value
        axis.plot(iteration, drawn, marker=".", **line_style(index), lw=1.2, ms=3)
    axis.set_title(title, fontsize=10)
    axis.set_ylabel(label + ("\n(0 is not drawn)" if log and above.size < known.size else ""))
    if not above.size:
        what = "0 in every run" if known.size else "not recorded"
        axis.text(0.5, 0.5, what, ha="center", va="center", transform=axis.transAxes)
        axis.set(xlim=(0, max(run.record.iteration[-1] for run in runs)), yticks=[])
    elif log:
        axis.set_yscale("log")
    else:
        axis.set_ylim(0 if above.min() < 0.5 * above.max() or above.size < known.size else None, None)


def _heat(axis: Axes, histogram) -> None:
    """Each histogram a column with its own bins, as their limits change with time; its peak is black."""
    density = histogram.density()
    density = density / np.maximum(density.max(axis=1, keepdims=True), np.finfo(float).tiny)
    x = _edges(histogram.iteration)
    for index in range(len(x) - 1):
        columns, rows = np.meshgrid(x[index : index + 2], histogram.edges(index))
        axis.pcolormesh(columns, rows, density[index][:, None], cmap="Greys", vmin=0, vmax=1, rasterized=True)
    axis.axhline(0, color=COLOURS[5], lw=0.6)


def _grid(number: int, columns: int, height: float = 2.5, width: float = 3.9) -> tuple[Figure, list[Axes]]:
    rows = -(-number // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.6), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[number:]:
        axis.remove()
    return figure, axes[:number]


def _finish(figure: Figure, axes: Sequence[Axes], runs: Sequence[Run], xlabel: str | None = "iteration") -> Figure:
    """Grid lines, and one legend of the runs above all panels."""
    add_grid(axes)
    for axis in axes:
        if xlabel:
            axis.set_xlabel(xlabel)
    add_legend(figure, axes[0], {run.name: line_style(index) for index, run in enumerate(runs)})
    return figure


def _unit(column: str) -> str:
    if "flip" in column:
        return "share of all signs"
    if column.endswith("_share"):
        return "share of all channels" if column.startswith("dead") else "share of all weights"
    return "norm" if column.endswith("_grad") else column.split("_")[0]


def _edges(centres: np.ndarray) -> np.ndarray:
    """Borders of the columns that stand for moments of time, none before the first or behind the last moment."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([centres[:1], middle, centres[-1:]])


def _returning(run: Run) -> np.ndarray:
    return _ratio(run, "flip_back_share", "flip_share")


def _ratio(run: Run, above: str, below: str) -> np.ndarray:
    divisor = run.record.network(below)
    return run.record.network(above) / np.where(divisor > 0, divisor, np.nan)


def _normal_share(band: float) -> float:
    """Share of a normal distribution within ``band`` times its mean absolute value."""
    return erf(band * sqrt(2 / pi) / sqrt(2))


def _short(names: Sequence[str]) -> list[str]:
    """Names without the parts that say little in this package's backbones."""
    return [name.removeprefix("backbone.").replace(".unit.conv", "") for name in names]


def _most_layers(runs: Sequence[Run]) -> int:
    return max(len(run.record.layers) for run in runs)
