"""Images in WebDataset shards: tar files whose members ``KEY.jpg`` and ``KEY.cls`` are one sample.

Any WebDataset writer makes such files, and its readers take those of :func:`write_shard`. Here they are read by place:
an index of a shard says where each image's bytes are, so that a sampler may ask for any of them.
"""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rebnn_mm.errors import MissingFileError, UserError, UserFileError
from rebnn_mm.files.atomic import atomic_path
from rebnn_mm.files.images import IMAGE_SUFFIXES

LABEL = ".cls"
CLASSES = "classes.txt"
_INDEX = ".index.npz"


@dataclass(frozen=True)
class ShardIndex:
    """Where the N images of one shard are.

    Attributes:
        names: Of the members, with their suffix.
        offsets: (N,) int64, first byte of each image in the tar file.
        sizes: (N,) int64, bytes of each image.
        labels: (N,) int64, number of its class.
    """

    names: tuple[str, ...]
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray


def write_shard(path: str | Path, samples: Iterable[tuple[str, str, bytes, int]]) -> int:
    """Write one shard, whole or not at all; returns the number of samples.

    Args:
        path: ``*.tar``.
        samples: (key without a dot, suffix such as ``.jpg``, the image file's bytes, number of its class).

    Raises:
        UserFileError: The disk is full or cannot be written.
    """
    count = 0
    with atomic_path(path) as part, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, suffix, data, label in samples:
            for name, body in ((key + suffix, data), (key + LABEL, str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(body), 0o644
                tar.addfile(member, io.BytesIO(body))
            count += 1
    return count


def read_index(path: str | Path) -> ShardIndex:
    """The index of a shard, which is kept as ``SHARD.index.npz`` beside it where the folder can be written.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is no tar file, or holds a sample without a label or with two images.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"shard {path} does not exist")
    stat = path.stat()
    state = np.array([stat.st_size, stat.st_mtime_ns])
    kept = path.with_name(path.name + _INDEX)
    known = _read_kept(kept, state)
    if known is not None:
        return known
    index = _scan(path)
    names = np.frombuffer("\n".join(index.names).encode(), np.uint8)
    try:
        with atomic_path(kept) as part, open(part, "wb") as file:
            np.savez(file, state=state, names=names, offsets=index.offsets, sizes=index.sizes, labels=index.labels)
    except UserFileError:  # a read-only data set: it is scanned again next time
        pass
    return index


def read_member(path: str | Path, offset: int, size: int) -> bytes:
    """``size`` bytes of a file from ``offset`` on.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: The file ends before.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(size)
    finally:
        os.close(descriptor)
    if len(data) < size:
        raise UserError(f"shard {path} ends before byte {offset + size}: it was cut off, copy it again")
    return data


def _read_kept(kept: Path, state: np.ndarray) -> ShardIndex | None:
    """The kept index, or None if there is none of this very file."""
    try:
        with np.load(kept) as arrays:
            if not np.array_equal(arrays["state"], state):
                return None
            names = arrays["names"].tobytes().decode()
            return ShardIndex(tuple(names.split("\n")), arrays["offsets"], arrays["sizes"], arrays["labels"])
    # none, or a damaged one, which is written anew
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _scan(path: Path) -> ShardIndex:
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, suffix = _split(member.name)
                if suffix in IMAGE_SUFFIXES:
                    if key in images:
                        raise UserError(f"shard {path}: sample {key!r} has two images, {member.name} is the second")
                    images[key] = (member.name, member.offset_data, member.size)
                elif suffix == LABEL:
                    labels[key] = _label(path, member.name, read_member(path, member.offset_data, member.size))
    except tarfile.TarError as error:
        raise UserError(f"shard {path} is no uncompressed tar file, or is damaged: {error}") from None
    without = sorted(images.keys() - labels.keys())
    if without:
        raise UserError(f"shard {path}: {len(without)} images have no label, {without[0]}{LABEL} for example")
    if not images:
        raise UserError(f"shard {path} holds no image with a label ({', '.join(IMAGE_SUFFIXES)}, each with a {LABEL})")
    names, offsets, sizes = zip(*images.values(), strict=True)
    return ShardIndex(names, np.array(offsets), np.array(sizes), np.array([labels[key] for key in images]))


def _split(name: str) -> tuple[str, str]:
    """Key and suffix, as WebDataset has them: a name's suffix begins at its first dot."""
    folder, _, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (dot + suffix).lower()


def _label(path: Path, name: str, text: bytes) -> int:
    try:
        label = int(text)
    except ValueError:
        label = -1
    if label < 0:
        raise UserError(f"shard {path}: {name} holds {text[:20]!r} and not the number of a class")
    return label
