"""Read what a training left in its work dir: the oscillation record. Files only, no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.files.oscillation import COLUMNS, FILE_NAME, Chunk, Header, pool, read_chunks


@dataclass(frozen=True)
class Histogram:
    """Distribution of latent weights over time, H histograms of B equal bins.

    Attributes:
        iteration: (H,) iterations done.
        limit: (H,) each histogram's bins span [-limit, limit]; four times the mean ``|w|`` of that moment.
        counts: (H, B) weights in each bin; those beyond the limit are in none.
        total: Number of weights.
    """

    iteration: np.ndarray
    limit: np.ndarray
    counts: np.ndarray
    total: int

    def edges(self, index: int) -> np.ndarray:
        """(B + 1,) edges of the bins of histogram ``index``."""
        return np.linspace(-self.limit[index], self.limit[index], self.counts.shape[1] + 1)

    def density(self) -> np.ndarray:
        """(H, B) share of all weights in each bin, divided by the bin's width."""
        width = 2 * self.limit / self.counts.shape[1]
        return self.counts / self.total / np.where(width > 0, width, np.inf)[:, None]


@dataclass(frozen=True)
class Oscillation:
    """The oscillation record of one run: T records of L layers.

    Attributes:
        path: The file.
        header: Names and sizes of the layers, interval, window and band; see ``rebnn_mm.files.oscillation.Header``.
        iteration: (T,) training iterations done at each record.
        values: Column -> (T, L); the columns are those of ``rebnn_mm.files.oscillation.COLUMNS``:
            ``flip_share`` (signs changed since the last record), ``flip_back_share`` (those of them that
            returned within the window; a share of all signs, too), ``update_flip_share`` (signs that one single
            update changed), ``band_share``, ``saturated_share``, ``dead_channel_share``, ``gamma_mean``,
            ``gamma_max``, ``alpha_mean``, and the norms ``task_grad`` and ``reconstruction_grad``. NaN where a
            layer has no such value.
        histograms: Layer -> distribution of its latent weights.
        first_channel: The same for the first channel of the first layer; None when no histogram was recorded.
        cut_off: Whether a last, incomplete chunk was left out (the process was killed while writing it).
    """

    path: Path
    header: Header
    iteration: np.ndarray
    values: dict[str, np.ndarray]
    histograms: dict[str, Histogram] = field(default_factory=dict)
    first_channel: Histogram | None = None
    cut_off: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, (L,)."""
        return self.header.layers

    @property
    def epoch(self) -> np.ndarray:
        """(T,) epochs done at each record, with their fraction."""
        return self.iteration / self.header.iterations_per_epoch

    def network(self, column: str) -> np.ndarray:
        """One column for the whole network, (T,): shares over all weights, norms of all gradients together.

        Raises:
            ValueError: There is no such column.
        """
        if column not in self.values:
            raise UserError(f"column {column!r} is not recorded; there are {', '.join(self.values)}")
        return pool(self.values[column], COLUMNS[column], self.header)


def read_oscillation(path: str | Path) -> Oscillation:
    """Read ``oscillation.bin``, given itself or its work dir.

    Raises:
        FileNotFoundError: No such folder, or none of its runs had an OscillationHook.
        OscillationFileError: (a ValueError) The file is damaged, or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise MissingFileError(
                f"{path} has no {FILE_NAME}: train with dict(type='OscillationHook') in custom_hooks to get one"
            )
        path = path / FILE_NAME
    elif not path.exists():
        raise MissingFileError(f"{path} does not exist: give a work dir, or the {FILE_NAME} in it")
    chunks = list(read_chunks(path))
    header = chunks[0].value
    records = [chunk for chunk in chunks if chunk.kind == "STAT"]
    table = np.array([chunk.value for chunk in records], np.float32)
    table = table.reshape(len(records), len(header.layers), len(header.columns))
    found: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        if chunk.kind == "HIST":
            found.setdefault(chunk.value[0], []).append(chunk)
    totals = [header.weights[0] // header.channels[0], *header.weights]
    histograms = {what: _histogram(rows, totals[what]) for what, rows in found.items()}
    return Oscillation(
        path=path,
        header=header,
        iteration=np.array([chunk.iteration for chunk in records], np.int64),
        values={name: table[:, :, index] for index, name in enumerate(header.columns)},
        histograms={header.layers[what - 1]: found for what, found in sorted(histograms.items()) if what},
        first_channel=histograms.get(0),
        cut_off=chunks[-1].end < path.stat().st_size,
    )


def _histogram(chunks: list[Chunk], total: int) -> Histogram:
    return Histogram(
        iteration=np.array([chunk.iteration for chunk in chunks], np.int64),
        limit=np.array([chunk.value[1] for chunk in chunks], np.float64),
        counts=np.array([chunk.value[2] for chunk in chunks], np.int64),
        total=total,
    )
