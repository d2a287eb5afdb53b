"""What the figures of this package share: colours, lines that stay readable, grids, one legend outside the panels.

Runs keep their colour through all figures (Okabe and Ito's palette, which the colour-blind tell apart). Only
matplotlib's objects are used, without pyplot and its global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
_STYLES = ("-", "--", ":", "-.")
_POINTS = 400  # more are averaged: a line cannot show them


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of run number ``index``."""
    return dict(color=COLOURS[index % len(COLOURS)], ls=_STYLES[index // len(COLOURS) % len(_STYLES)])


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most 400 points, each the mean of neighbours at the last one's place; (T,) and (T, ...)."""
    if not len(x):
        return x, y
    size = -(-len(x) // _POINTS)
    starts = np.arange(0, len(x), size)
    ends = np.minimum(starts + size, len(x))
    counts = (ends - starts).reshape(-1, *[1] * (y.ndim - 1))
    return x[ends - 1], np.add.reduceat(y, starts, axis=0) / counts


def add_grid(axes: Sequence[Axes]) -> None:
    """Light lines behind the data, no frame above and on the right."""
    for axis in axes:
        axis.grid(True, color="0.9", lw=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)


def add_legend(figure: Figure, axis: Axes, styles: Mapping[str, dict[str, Any]]) -> None:
    """One legend above all panels; ``styles`` are name -> :func:`line_style`."""
    handles = [axis.plot([], [], **style, label=name)[0] for name, style in styles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(styles), 4), frameon=False, fontsize=9)
