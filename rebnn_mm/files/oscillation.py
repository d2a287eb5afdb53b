"""The file ``oscillation.bin`` of a work dir: what :class:`rebnn_mm.hooks.OscillationHook` measured, byte by byte.

All numbers are little-endian. The file is a magic of 8 bytes, then chunks to its end::

    magic    8 bytes   89 "RBOSC" 0a 01       the last byte is the version
    chunk    kind 4 bytes, size u32, payload of ``size`` bytes, crc32 u32 of kind, size and payload

    HEAD     JSON, UTF-8; the first chunk, once: the fields of :class:`Header`
    STAT     iteration u64, then float32 (layers, columns), row by row: one record of all layers
    HIST     iteration u64, what u32, limit f32, then u32 (128,): one histogram of latent weights in equal bins over
             [-limit, limit]; ``what`` is 0 for the first channel of the first layer, i + 1 for the whole of layer i

``iteration`` counts finished training iterations, as mmengine's logs do, and does not fall from chunk to chunk. A value
that a layer does not have (gamma of another method, a gradient that did not arrive) is NaN.

A chunk that a full disk cuts short is taken back at once. A killed process leaves at most one chunk cut off at the end:
readers leave it out and say so, and a resumed run overwrites it. Any other damage fails a checksum. Nothing in the file
is executed.
A record costs 44 bytes a layer, a histogram half a kilobyte.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rebnn_mm.errors import MissingFileError, UserError, UserFileError
from rebnn_mm.files.atomic import write_bytes

FILE_NAME = "oscillation.bin"
MAGIC = b"\x89RBOSC\n\x01"
BINS = 128
_PREFIX = struct.Struct("<4sI")
_STAT = struct.Struct("<Q")
_HIST = struct.Struct("<QIf")

# What one record holds for each layer, in this order, and how layers are summed up: 'weights' and 'channels' are means
# with that weight, 'max' is the largest, 'norm' the norm of the layers' gradients taken together.
COLUMNS = {
    "flip_share": "weights",
    "flip_back_share": "weights",
    "update_flip_share": "weights",
    "band_share": "weights",
    "saturated_share": "weights",
    "dead_channel_share": "channels",
    "gamma_mean": "channels",
    "gamma_max": "max",
    "alpha_mean": "channels",
    "task_grad": "norm",
    "reconstruction_grad": "norm",
}


class OscillationFileError(UserError):
    """The file is not what its docstring says; the message names the place."""


@dataclass(frozen=True)
class Header:
    """What holds for the whole file.

    Attributes:
        layers: Dotted names, in the model's order.
        weights: Latent weights of each layer.
        channels: Output channels of each layer.
        interval: Updates between two snapshots of the signs, which are the records.
        window: Snapshots within which a sign must return to count as flipped back.
        band: Half the width of the band around zero, in units of the layer's mean ``|w|``.
        iterations_per_epoch: Length of the training loader.
        columns: Names of a record's values.
    """

    layers: tuple[str, ...]
    weights: tuple[int, ...]
    channels: tuple[int, ...]
    interval: int
    window: int
    band: float
    iterations_per_epoch: int
    columns: tuple[str, ...] = tuple(COLUMNS)


@dataclass(frozen=True)
class Chunk:
    """One chunk: ``value`` is a :class:`Header`, a (layers, columns) record, or (what, limit, counts)."""

    kind: str
    iteration: int
    value: Any
    end: int  # offset of the first byte behind it


class OscillationWriter:
    """Appends to the file; opens it anew, or goes on behind the records of a resumed run.

    Args:
        path: The file.
        header: What to write first, or to compare with.
        resume_at: None starts the file anew; a number of iterations keeps the records up to it and cuts off the later
            ones, which the resumed run will write again.

    Attributes:
        is_new: Whether the file was started anew.

    Raises:
        OscillationFileError: The file to go on with is of another model or interval, or damaged.
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: str | Path, header: Header, resume_at: int | None = None) -> None:
        self.path = Path(path)
        self.header = header
        self.is_new = resume_at is None or not self.path.is_file()
        self._failed = False
        if self.is_new:
            start = MAGIC + _chunk(b"HEAD", json.dumps(asdict(header)).encode())
            write_bytes(self.path, start, make_folder=True)
            self._end = len(start)
        else:
            self._end = _end_of(self.path, header, resume_at or 0)
            os.truncate(self.path, self._end)

    def record(self, iteration: int, values: np.ndarray) -> None:
        """Append a record of ``values``, (layers, columns)."""
        self._append(b"STAT", _STAT.pack(iteration) + values.astype("<f4").tobytes())

    def histogram(self, iteration: int, what: int, limit: float, counts: np.ndarray) -> None:
        """Append a histogram; ``what`` as in the module's docstring."""
        self._append(b"HIST", _HIST.pack(iteration, what, limit) + counts.astype("<u4").tobytes())

    def _append(self, kind: bytes, payload: bytes) -> None:
        """Append a chunk whole, or leave the file as it was and raise OSError; a later chunk may then be written."""
        with open(self.path, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size != self._end:
                if not self._failed or size < self._end:
                    raise UserFileError(f"{self.path} was changed by another program while this training recorded")
                file.truncate(self._end)  # the rest of a chunk that could not be taken back at once
                file.seek(self._end)
            rest = memoryview(_chunk(kind, payload))
            self._failed = True
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(self._end)
                raise
            self._failed = False
            self._end = file.tell()


def read_chunks(path: str | Path) -> Iterator[Chunk]:
    """All chunks of a file in order, the header first; a chunk cut off at the end is left out.

    Whether one was left out shows in the last chunk's ``end``, which is then below the file's size.

    Raises:
        FileNotFoundError: ``path`` is no file.
        OscillationFileError: It is no such file, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file: training with OscillationHook writes one into the work dir")
    data = memoryview(path.read_bytes())
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise OscillationFileError(f"{path} is no oscillation record: it starts with {bytes(data[:8])!r}")
    at, header = len(MAGIC), None
    while at + _PREFIX.size <= len(data):
        kind, size = _PREFIX.unpack_from(data, at)
        end = at + _PREFIX.size + size + 4
        if end > len(data):
            break
        if zlib.crc32(data[at : end - 4]) != int.from_bytes(data[end - 4 : end], "little"):
            raise OscillationFileError(f"{path} is damaged at byte {at:,}: its checksum does not match; copy it again")
        payload = bytes(data[at + _PREFIX.size : end - 4])
        try:
            chunk = _decode(kind, payload, header, end)
        except (ValueError, TypeError, KeyError, struct.error) as error:
            raise OscillationFileError(f"{path} holds a malformed chunk at byte {at:,}: {error}") from None
        header = header or chunk.value
        yield chunk
        at = end
    if header is None:
        raise OscillationFileError(f"{path} is cut off after {len(data)} bytes, before its header ends")


def pool(values: np.ndarray, how: str, header: Header) -> np.ndarray:
    """(..., L) values of layers -> (...) of the network, as ``COLUMNS`` says; layers without a value are left out."""
    known = np.isfinite(values)
    none = ~known.any(axis=-1)
    filled = np.where(known, values, 0.0)
    if how == "max":
        pooled = filled.max(axis=-1)
    elif how == "norm":
        pooled = np.sqrt(np.square(filled.astype(np.float64)).sum(axis=-1))
    else:
        weight = np.asarray(getattr(header, how)) * known
        pooled = (filled * weight).sum(axis=-1) / np.maximum(weight.sum(axis=-1), 1)
    return np.where(none, np.nan, pooled)


def _chunk(kind: bytes, payload: bytes) -> bytes:
    head = _PREFIX.pack(kind, len(payload)) + payload
    return head + zlib.crc32(head).to_bytes(4, "little")


def _decode(kind: bytes, payload: bytes, header: Header | None, end: int) -> Chunk:
    if (header is None) != (kind == b"HEAD"):
        raise UserError("HEAD must be the first chunk, and is there once")
    if header is None:
        fields: dict[str, Any] = json.loads(payload)
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return Chunk("HEAD", 0, Header(**fields), end)
    if kind == b"STAT":
        values = np.frombuffer(payload, "<f4", offset=_STAT.size).reshape(len(header.layers), len(header.columns))
        return Chunk("STAT", _STAT.unpack_from(payload)[0], values, end)
    if kind == b"HIST":
        iteration, what, limit = _HIST.unpack_from(payload)
        counts = np.frombuffer(payload, "<u4", offset=_HIST.size)
        if what > len(header.layers) or len(counts) != BINS:
            raise UserError(f"a histogram of layer {what - 1} of {len(header.layers)} in {len(counts)} bins")
        return Chunk("HIST", iteration, (what, limit, counts), end)
    raise UserError(f"unknown kind {kind!r}; allowed are HEAD, STAT, HIST")


def _end_of(path: Path, header: Header, iteration: int) -> int:
    """Offset behind the last chunk that a run resumed after ``iteration`` iterations keeps."""
    keep = 0
    for chunk in read_chunks(path):
        if chunk.kind == "HEAD":
            _check_same(path, chunk.value, header)
        elif chunk.iteration > iteration:
            break
        keep = chunk.end
    return keep


def _check_same(path: Path, old: Header, new: Header) -> None:
    """Refuse to mix records of two models or settings; the length of an epoch may change."""
    names: Sequence[str] = ("layers", "weights", "channels", "interval", "window", "band", "columns")
    other = [name for name in names if getattr(old, name) != getattr(new, name)]
    if other:
        raise OscillationFileError(
            f"{path} was recorded with another {', '.join(other)} than this run's: only the same model and "
            "OscillationHook options can go on with it"
        )
