"""A data set of images in WebDataset shards, for mmpretrain's pipelines as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.fileio import BaseStorageBackend, register_backend
from mmpretrain.datasets.base_dataset import BaseDataset
from mmpretrain.registry import DATASETS

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.files.shards import CLASSES, read_index, read_member

_PREFIX = "shard"
_PATH = re.compile(rf"{_PREFIX}://(.+)@(\d+)\+(\d+)(\.\w+)?", re.DOTALL)


def shard_path(tar: str | Path, name: str, offset: int, size: int) -> str:
    """An ``img_path`` that loaders read through mmengine's file backends: ``shard:///a/b.tar/cat/1@512+2048.jpg``."""
    stem, dot, suffix = name.rpartition(".")
    return f"{_PREFIX}://{tar}/{stem}@{offset}+{size}{dot}{suffix}"


@register_backend("rebnn_shard", prefixes=_PREFIX)
class ShardBackend(BaseStorageBackend):
    """Reads what :func:`shard_path` names."""

    def get(self, filepath: str | Path) -> bytes:
        """Bytes of one image.

        Raises:
            FileNotFoundError: The shard is not there.
            UserError: The path is malformed, or the shard is cut off.
        """
        match = _PATH.fullmatch(str(filepath))
        if match is None:
            raise UserError(f"{filepath}: an image in a shard is {_PREFIX}://SHARD.tar/NAME@OFFSET+SIZE.SUFFIX")
        place, offset, size = match[1], int(match[2]), int(match[3])
        ends = [found.end() - 1 for found in re.finditer(r"\.tar/", place)]
        tar = next((place[:end] for end in ends if Path(place[:end]).is_file()), None)
        if tar is None:
            raise MissingFileError(f"the shard of {filepath} is not there")
        return read_member(tar, offset, size)

    def get_text(self, filepath: str | Path, encoding: str = "utf-8") -> str:
        """As :meth:`get`, decoded."""
        return self.get(filepath).decode(encoding)


@DATASETS.register_module()
class ShardedImages(BaseDataset):
    """Images in WebDataset shards, ``data_root/data_prefix/*.tar``, with ``.cls`` labels, classes in ``classes.txt``.

    It takes the place of ``CheckedImageFolder``: the same pipelines, samplers, workers and ranks, since any image can
    be asked for by its place. Nothing is streamed: shards lie on a disk that each machine can read. Each shard is
    scanned once, and its index kept beside it.

    Args:
        args, kwargs: As for mmpretrain's ``BaseDataset``, without ``ann_file``.
        same_classes_as: Prefix of another split under ``data_root`` that must have the same classes; not looked at
            where that split is absent (testing only).
        source: Where the data come from, for the message when they are missing.

    Raises:
        FileNotFoundError: No such folder, or no shard in it.
        UserError: A damaged shard; labels beyond the classes; other classes than those of ``same_classes_as``.
    """

    def __init__(self, *args: Any, same_classes_as: str = "", source: str = "", **kwargs: Any) -> None:
        self.same_classes_as, self.source = same_classes_as, source
        super().__init__(*args, ann_file="", **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One dict an image: its path, as :func:`shard_path` writes it, and its label."""
        folder = Path(self.img_prefix)
        shards = sorted(folder.absolute().glob("*.tar"))
        if not shards:
            raise MissingFileError(
                f"no shard (*.tar) in {folder} (looked at {folder.absolute()}): write them with tools/make_shards.py, "
                f"or name another place with --cfg-options data_root=FOLDER. {self.source}".rstrip()
            )
        classes = _classes(folder)
        other = Path(self.data_root or "", self.same_classes_as)
        if self.same_classes_as and other.is_dir() and _classes(other) != classes:
            raise UserError(f"{folder} and {other} must have the same {CLASSES}: it gives the labels their names")
        if classes and "classes" not in self._metainfo:
            self._metainfo["classes"] = classes
        samples = []
        for tar in shards:
            index = read_index(tar)
            beyond = index.labels >= len(classes) if classes else index.labels < 0
            if beyond.any():
                raise UserError(
                    f"{tar} has label {index.labels[beyond][0]}, and {folder / CLASSES} names {len(classes)} classes"
                )
            rows = zip(index.names, index.offsets.tolist(), index.sizes.tolist(), index.labels.tolist(), strict=True)
            samples += [dict(img_path=shard_path(tar, *row), gt_label=label) for *row, label in rows]
        return samples


def _classes(folder: Path) -> Sequence[str]:
    """Names of the classes in the order of their numbers; empty where nobody wrote them down."""
    file = folder / CLASSES
    return tuple(file.read_text().splitlines()) if file.is_file() else ()
