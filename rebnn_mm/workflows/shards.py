"""From class folders to WebDataset shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.files.atomic import atomic_folder, write_text
from rebnn_mm.files.images import IMAGE_SUFFIXES, counts_by_suffix, files_below
from rebnn_mm.files.shards import CLASSES, write_shard
from rebnn_mm.progress import Progress


def make_shards(source: str | Path, out: str | Path, shard_bytes: int = 256_000_000, seed: int = 0) -> list[Path]:
    """Write one split, ``source``/CLASS/*.jpg, as shards ``out``/000000.tar, ... and ``out``/classes.txt.

    The images' bytes are copied as they are. They are shuffled, so that a program that streams shards sees mixed
    classes too. Labels are the places of the folder names in sorted order, as ``CheckedImageFolder`` has them,
    and the images are those that it takes: files left out are counted in a warning, hidden ones are passed by.

    Args:
        source: Folder of class folders.
        out: Folder to write, which must not exist; it appears when it is complete.
        shard_bytes: A shard ends with the image that reaches this size.
        seed: Of the order.

    Returns:
        The shards.

    Raises:
        MissingFileError: ``source`` is no folder.
        UserError: No image in class folders, a class folder with other files alone, or a size below 1.
        UserFileError: ``out`` exists, or the disk is full.
    """
    source, out = Path(source), Path(out)
    if not source.is_dir():
        raise MissingFileError(f"{source} is no folder: give the one that holds the class folders, as IMAGENET/train")
    if shard_bytes < 1:
        raise UserError(f"shards of {shard_bytes} bytes: give at least 1")
    classes = sorted(path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = _labelled_images(source, classes)
    order = np.random.default_rng(seed).permutation(len(files))
    groups = _groups([files[place] for place in order], shard_bytes)
    with atomic_folder(out) as part, Progress("images packed", len(files)) as progress:
        for number, group in enumerate(groups):
            write_shard(part / f"{number:06d}.tar", _samples(group, source, progress))
        write_text(part / CLASSES, "".join(f"{name}\n" for name in classes))
    return sorted(out.glob("*.tar"))


def _labelled_images(source: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Every image with its label; says what has none, and refuses a class whose files are no images."""
    images: list[tuple[Path, int]] = []
    others: list[Path] = []
    kinds = ", ".join(IMAGE_SUFFIXES)
    for label, name in enumerate(classes):
        files = files_below(source / name)
        found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        if files and not found:
            raise UserError(
                f"class folder {source / name} has no image, only {counts_by_suffix(files)}: images are {kinds}; "
                "convert them, or move them away"
            )
        if not files:  # one split may lack a class, whose label must stay
            _warn(f"class folder {source / name} is empty: its class stays in {CLASSES}, without an image")
        images += [(path, label) for path in found]
        others += [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    if not images:
        raise UserError(f"{source} has no image in a class folder (CLASS/*.jpg; {kinds})")
    if others:
        _warn(f"{source}: {counts_by_suffix(others)} in class folders are left out; images are {kinds}")
    return images


def _warn(sentence: str) -> None:
    print_log(sentence, logger="current", level=logging.WARNING)


def _groups(files: Sequence[tuple[Path, int]], shard_bytes: int) -> list[list[tuple[Path, int]]]:
    """The files of each shard."""
    groups: list[list[tuple[Path, int]]] = []
    size = shard_bytes
    for path, label in files:
        if size >= shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append((path, label))
        size += path.stat().st_size
    return groups


def _samples(
    group: Sequence[tuple[Path, int]], source: Path, progress: Progress
) -> Iterator[tuple[str, str, bytes, int]]:
    for path, label in group:
        below = path.relative_to(source)
        # a key ends at its first dot, also of two files that differ by their suffix alone
        key = (below.parent / below.name.replace(".", "_")).as_posix()
        yield key, path.suffix.lower(), path.read_bytes(), label
        progress.advance()
