"""One page about one or several trainings: a table, the figures and how to read them, in a single file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from math import isfinite
from pathlib import Path

from rebnn_mm.analysis.runs import Run, Summary, summarize
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import check_results_folder, write_bytes, write_text

FORMATS = ("png", "svg")
_MIME = {"png": "image/png", "svg": "image/svg+xml"}

CAPTIONS = {
    "flips": "Signs flipped and flipped back, as shares of all signs of the network. Flips should fall as the learning "
    "rate does; flips that go on while many of them are flips back are oscillation. The dotted line is the share of "
    "weights near zero in a normal distribution: more is a crowd at the threshold, fewer is a gap.",
    "flip_share_layers": "The same by layer, the first layer above.",
    "flip_back_share_layers": "Flips back by layer: where the oscillation is.",
    "weights": "Each column is a histogram of one moment, its highest bin black; the line is the sign's threshold. A "
    "dark band on it is the third peak, weights that wait at zero; two bands beside it are signs that have settled.",
    "weights_layers": "Every layer at the end of training, in units of its mean |w|, and before training in grey.",
    "scales": "The balance parameter gamma and the scale alpha, over all channels of the network.",
    "gamma_layers": "Mean gamma by layer.",
    "gradients": "Norms of the two parts of the gradient that the optimizer got, all layers together. A reconstruction "
    "part far below the task's does nothing; one far above it freezes the signs.",
    "curves": "What it is all for.",
}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; } figure { margin: 2rem 0; } img { max-width: 100%; }
figcaption { max-width: 50rem; } .scroll { overflow-x: auto; }
"""

_COLUMNS = (
    ("run", "name"),
    ("iterations", "iterations"),
    ("flips in an interval", "flip_share"),
    ("flips in an update", "update_flip_share"),
    ("flips back", "flip_back_share"),
    ("flips that are flips back", "returning"),
    ("weights near zero", "band_share"),
    ("gamma", "gamma"),
    ("reconstruction / task gradient", "reconstruction"),
    ("metric", "metric"),
    ("last", "last"),
    ("best", "best"),
)


def write_report(runs: Sequence[Run], out_dir: str | Path, image_format: str = "png") -> list[Path]:
    """Write the figures and ``index.html``, which holds all of them and needs nothing else; returns the files.

    Args:
        runs: From :func:`rebnn_mm.analysis.runs.read_runs`, at least one.
        out_dir: Made if it does not exist; files of the same names are replaced.
        image_format: ``'png'`` or ``'svg'``.

    Raises:
        ValueError: Another format.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if image_format not in FORMATS:
        raise UserError(f"image_format={image_format!r} is not one of {FORMATS}")
    from rebnn_mm.analysis.figures import figures  # here: everything else of this package runs without matplotlib

    check_results_folder(out_dir)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    files, images = [], {}
    for name, figure in figures(runs).items():
        stream = io.BytesIO()
        figure.savefig(stream, format=image_format, dpi=130)
        images[name] = stream.getvalue()
        files.append(folder / f"{name}.{image_format}")
        write_bytes(files[-1], images[name])
    page = folder / "index.html"
    write_text(page, _page(runs, images, image_format))
    return [page, *files]


def format_summary(summaries: Sequence[Summary]) -> str:
    """The table as text, one run a row."""
    rows = [[title for title, _ in _COLUMNS], *_rows(summaries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def _page(runs: Sequence[Run], images: dict[str, bytes], image_format: str) -> str:
    header = runs[0].record.header
    title = "Oscillation of " + ", ".join(run.name for run in runs)
    figures = "\n".join(
        f'<figure><img alt="{name}" src="data:{_MIME[image_format]};base64,{base64.b64encode(image).decode()}">'
        f"<figcaption>{escape(CAPTIONS.get(name, ''))}</figcaption></figure>"
        for name, image in images.items()
    )
    cut = "".join(
        f"<p>The record of {escape(run.name)} ends within an entry, which was left out: its process was killed.</p>"
        for run in runs
        if run.record.cut_off
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>Means over the last tenth of each run. A record is {_intervals(runs)} apart from the next;
a flip back is a flip that undoes one of the {header.window} records before. Shares are of all 1-bit weights.</p>
<div class="scroll">{_table([summarize(run) for run in runs])}</div>
{cut}{figures}
</body></html>
"""


def _intervals(runs: Sequence[Run]) -> str:
    intervals = {run.name: run.record.header.interval for run in runs}
    if len(set(intervals.values())) == 1:
        return f"{next(iter(intervals.values()))} updates"
    listed = ", ".join(f"{escape(name)}: {number}" for name, number in intervals.items())
    return f"a number of updates that differs from run to run ({listed}: flips are not comparable)"


def _table(summaries: Sequence[Summary]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title, _ in _COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in _rows(summaries))
    return f"<table><tr>{head}</tr>{body}</table>"


def _rows(summaries: Sequence[Summary]) -> list[list[str]]:
    return [[_cell(getattr(summary, field)) for _, field in _COLUMNS] for summary in summaries]


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if isfinite(value) else "-"
    return f"{value:,}" if isinstance(value, int) else value
