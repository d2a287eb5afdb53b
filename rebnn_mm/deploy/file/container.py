"""The ``.rebnn`` file: a fixed prefix, a compressed JSON header, and raw tensors on 64-byte boundaries.

======== ==== ==============================================================================
offset   size field (integers are little-endian and unsigned)
======== ==== ==============================================================================
0        8    magic ``89 52 42 4E 4E 0D 0A 1A``
8        4    version, 2
12       4    reserved, 0
16       8    header size H in bytes, compressed
24       8    size of the whole file in bytes
32       32   SHA-256 of the file without these 32 bytes
64       H    header, UTF-8 JSON (:mod:`rebnn_mm.deploy.file.plain`) compressed by zlib (RFC 1950)
64 + H   --   zero bytes up to the next multiple of 64; then the tensors, each at the next
              multiple of 64 after its predecessor, little-endian, in the header's order
======== ==== ==============================================================================

docs/format.md describes the header, and why this is no safetensors file. Nothing in a file is
executed: it holds numbers and plain values.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.file import plain
from rebnn_mm.deploy.file.tensors import BinaryTensor, Stored, parts_of
from rebnn_mm.deploy.operation.bits import bytes_of_bits
from rebnn_mm.deploy.operation.int8 import QuantizedTensor
from rebnn_mm.errors import MissingFileError, UserError

MAGIC = b"\x89RBNN\r\n\x1a"
VERSION = 2
ALIGNMENT = 64
# Uncompressed; a 1000-class ResNet-50 has 60 kB. The bound keeps a hostile one from filling the memory.
MAX_HEADER = 4 << 20
MAX_FILE = 8 << 30

_PREFIX = struct.Struct("<8sIIQQ")
_DIGEST_AT, _HEADER_AT = 32, 64
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int64": torch.int64, "uint8": torch.uint8}
_WEIGHTS = ("bit", "int8")  # at least two dimensions, none of them empty
_MAX_DIMS, _MAX_NAME = 8, 512


class RebnnFileError(UserError):
    """A file that is no sound ``.rebnn`` file, or not one that this version can use."""


@dataclass(frozen=True)
class PackedFile:
    """What a file holds.

    Attributes:
        info: The header without its table of tensors: plain values.
        tensors: By name, in the file's order. They are views of the mapped file, so pages are read when
            used and shared with other processes; writing to one changes this process's copy only.
        size: Bytes of the whole file.
    """

    info: dict[str, Any]
    tensors: dict[str, Stored]
    size: int


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        if self.dtype == "bit":
            return bytes_of_bits(self.shape)
        if self.dtype == "int8":
            return 4 * self.shape[0] + prod(self.shape)
        return prod(self.shape) * _DTYPES[self.dtype].itemsize


def write_file(path: str | Path, info: Mapping[str, Any], tensors: Mapping[str, Stored]) -> int:
    """Write a file and flush it to the disk; returns its size. Not atomic by itself: see :mod:`rebnn_mm.files.atomic`.

    Raises:
        TypeError: ``info`` holds something else than plain values.
        ValueError: A tensor's type has no place in the format, or the header or the file is too large.
    """
    entries, end = _lay_out((name, *_kind(name, tensor)) for name, tensor in tensors.items())
    rows = [dict(name=e.name, dtype=e.dtype, shape=list(e.shape), offset=e.offset, size=e.size) for e in entries]
    text = plain.dumps({**info, "tensors": rows}).encode()
    header = zlib.compress(text, 9)
    first = _align(_HEADER_AT + len(header))
    size = first + end
    if len(text) > MAX_HEADER or size > MAX_FILE:
        raise ValueError(
            f"{path}: a header of {len(text):,} bytes and a file of {size:,} bytes; allowed are {MAX_HEADER:,} and "
            f"{MAX_FILE:,}. Store a shorter config, or fewer tensors"
        )
    prefix = _PREFIX.pack(MAGIC, VERSION, 0, len(header), size)
    digest = hashlib.sha256(prefix)
    with open(path, "wb") as file:
        file.write(prefix + bytes(32))
        for piece in _pieces(header, first, entries, tensors.values()):
            digest.update(piece)
            file.write(piece)
        file.seek(_DIGEST_AT)
        file.write(digest.digest())
        file.flush()
        os.fsync(file.fileno())
    return size


def read_file(path: str | Path) -> PackedFile:
    """Map a file, check all of it against its checksum and its own table, and return what it holds.

    The checksum costs about a millisecond for each 2 MB; no tensor is copied.

    Raises:
        FileNotFoundError: ``path`` is no file.
        RebnnFileError: Anything is wrong with it; the message says what.
    """
    if sys.byteorder != "little":
        raise RebnnFileError("this machine is big-endian, the tensors of a .rebnn file are not: convert them first")
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file: give a .rebnn file, tools/export.py writes one")
    with open(path, "rb") as file:
        actual = os.fstat(file.fileno()).st_size
        header_size = _check_prefix(path, file.read(_HEADER_AT), actual)
        # private copy-on-write: torch gets writable memory, and the file can never be changed through it
        mapped = mmap.mmap(file.fileno(), actual, access=mmap.ACCESS_COPY)
    view = memoryview(mapped)
    digest = hashlib.sha256(view[:_DIGEST_AT])
    digest.update(view[_HEADER_AT:])
    if digest.digest() != bytes(view[_DIGEST_AT:_HEADER_AT]):
        raise _error(path, "its checksum does not match: it is damaged, copy or export it again")
    try:
        header = plain.loads(_inflate(view[_HEADER_AT : _HEADER_AT + header_size]).decode())
        entries = _read_table(header, _align(_HEADER_AT + header_size), actual)
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise _error(path, f"its header is malformed: {error}") from None
    info = {key: value for key, value in header.items() if key != "tensors"}
    tensors = {entry.name: _view(mapped, entry) for entry in entries}
    for name, tensor in tensors.items():
        if isinstance(tensor, QuantizedTensor) and not _is_scale(tensor.scale):
            raise _error(path, f"a scale of {name!r} is not finite and above 0: export it again")
    return PackedFile(info, tensors, actual)


def _check_prefix(path: Path, prefix: bytes, actual: int) -> int:
    """Size of the header, after all checks that need the first 64 bytes only."""
    if not prefix.startswith(MAGIC):
        raise _error(path, f"it starts with {prefix[:8].hex(' ') or 'nothing'}, not with {MAGIC.hex(' ')}")
    if len(prefix) < _HEADER_AT:
        raise _error(path, f"it is cut off after {len(prefix)} bytes: copy it again")
    _, version, reserved, header_size, size = _PREFIX.unpack_from(prefix)
    if version != VERSION or reserved:
        raise _error(path, f"it has version {version}.{reserved}, this release reads {VERSION}.0: export it again")
    if size != actual:
        what = "cut off" if actual < size else "longer than it says"
        raise _error(path, f"it is {what}: {actual:,} bytes, its prefix says {size:,}; copy it again")
    if header_size > MAX_HEADER or _HEADER_AT + header_size > size or size > MAX_FILE:
        raise _error(path, f"a header of {header_size:,} bytes and a file of {size:,} bytes are more than is allowed")
    return header_size


def _inflate(data: memoryview) -> bytes:
    """The header's text; never more than MAX_HEADER bytes of it, however much ``data`` would expand to."""
    stream = zlib.decompressobj()
    text = stream.decompress(data, MAX_HEADER)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"it is no single zlib stream of at most {MAX_HEADER:,} bytes")
    return text


def _read_table(header: Any, first: int, file_size: int) -> list[_Entry]:
    """The table of tensors, each place checked against where the format puts it."""
    if not isinstance(header, dict) or not isinstance(header.get("tensors"), list):
        raise ValueError("it is no object with a list of tensors")
    rows = header["tensors"]
    if not all(isinstance(row, dict) and set(row) == {"name", "dtype", "shape", "offset", "size"} for row in rows):
        raise ValueError("a tensor has other keys than name, dtype, shape, offset, size")
    entries, end = _lay_out((row["name"], row["dtype"], row["shape"]) for row in rows)
    for row, entry in zip(rows, entries, strict=True):
        if (row["offset"], row["size"]) != (entry.offset, entry.size):
            raise ValueError(f"{entry.name!r} lies at {entry.offset} with {entry.size} bytes, the table says otherwise")
    if len({entry.name for entry in entries}) != len(entries):
        raise ValueError("a tensor is named twice")
    if first + end != file_size:
        raise ValueError(f"its tensors end at {first + end:,}, the file at {file_size:,}")
    return [_Entry(entry.name, entry.dtype, entry.shape, first + entry.offset) for entry in entries]


def _lay_out(rows: Iterable[tuple[Any, Any, Any]]) -> tuple[list[_Entry], int]:
    """Entries with their offsets from the first tensor's place, and the end of the last one."""
    entries, end = [], 0
    for name, dtype, shape in rows:
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
            raise ValueError(f"a tensor's name is no text of 1 to {_MAX_NAME} characters")
        if dtype not in _WEIGHTS and dtype not in _DTYPES:
            raise ValueError(f"{name!r} has the type {dtype!r}; allowed are {', '.join((*_WEIGHTS, *_DTYPES))}")
        plain_shape = isinstance(shape, list) and all(type(n) is int and 0 <= n <= MAX_FILE * 8 for n in shape)
        if not plain_shape or len(shape) > _MAX_DIMS or (dtype in _WEIGHTS and (len(shape) < 2 or min(shape) < 1)):
            raise ValueError(f"{name!r} has no usable shape")
        entry = _Entry(name, dtype, tuple(shape), _align(end))
        entries.append(entry)
        end = entry.offset + entry.size
    return entries, end


def _kind(name: str, tensor: Stored) -> tuple[str, list[int]]:
    """(dtype, shape) of a tensor to be written."""
    if isinstance(tensor, BinaryTensor):
        return "bit", list(tensor.shape)
    if isinstance(tensor, QuantizedTensor):
        return "int8", list(tensor.shape)
    for text, dtype in _DTYPES.items():
        if tensor.dtype == dtype:
            return text, list(tensor.shape)
    raise UserError(f"{name!r} has the type {tensor.dtype}; a file holds {', '.join(_DTYPES)}: convert it first")


def _pieces(header: bytes, first: int, entries: list[_Entry], tensors: Iterable[Stored]) -> Iterable[bytes]:
    yield header
    position = _HEADER_AT + len(header)
    for entry, tensor in zip(entries, tensors, strict=True):
        yield bytes(first + entry.offset - position)
        raw = b"".join(map(_raw, parts_of(tensor)))
        if len(raw) != entry.size:
            raise ValueError(f"{entry.name!r} holds {len(raw)} bytes, its shape {entry.shape} takes {entry.size}")
        yield raw
        position = first + entry.offset + entry.size
    if not entries:
        yield bytes(first - position)


def _raw(tensor: Tensor) -> bytes:
    data = tensor.detach().cpu().contiguous().numpy()
    return data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes()


def _is_scale(scale: Tensor) -> bool:
    return bool(((scale > 0) & scale.isfinite()).all())


def _view(mapped: mmap.mmap, entry: _Entry) -> Stored:
    if entry.dtype == "int8":
        channels = entry.shape[0]
        scale = torch.frombuffer(mapped, dtype=torch.float32, count=channels, offset=entry.offset)
        values = torch.frombuffer(mapped, dtype=torch.int8, count=prod(entry.shape), offset=entry.offset + 4 * channels)
        return QuantizedTensor(values.view(entry.shape), scale)
    dtype = torch.uint8 if entry.dtype == "bit" else _DTYPES[entry.dtype]
    count = entry.size // dtype.itemsize
    if count:
        flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=entry.offset)
    else:  # torch makes no view of nothing
        flat = torch.empty(0, dtype=dtype, device="cpu")
    return BinaryTensor(flat, entry.shape) if entry.dtype == "bit" else flat.view(entry.shape)


def _align(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _error(path: Path, reason: str) -> RebnnFileError:
    return RebnnFileError(f"{path} is no usable .rebnn file: {reason}")
