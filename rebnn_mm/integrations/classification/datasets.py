"""What the classification configs add to MMPretrain: a folder data set that says what is wrong with it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from rebnn_mm.errors import MissingFileError, UserError

# mmpretrain's, and .tiff. Others that OpenCV reads are taken where a config's ``extensions`` names them.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff")


@DATASETS.register_module()
class CheckedImageFolder(CustomDataset):
    """Images in one folder a class, ``data_root/data_prefix/CLASS/*.jpg``, checked before training starts.

    Labels are the places of the folder names in sorted order, so two splits agree only if they have
    the same folders; ``same_classes_as`` holds them to it. A class folder with files none of which is an image
    is refused; so is an empty one, unless ``same_classes_as`` asks for it. Files left out are counted in a warning.

    Args:
        args, kwargs: As for mmpretrain's ``CustomDataset``.
        extensions: Suffixes of images, in any case; another one, as ``.webp``, is named here for every split.
        same_classes_as: Prefix of another split under ``data_root`` that must have the same class
            folders; not looked at where that split is absent (testing only).
        source: Where the data come from, for the message when they are missing.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No image in it or in one of its class folders; class folders other than those of
            ``same_classes_as``.
    """

    def __init__(
        self,
        *args: Any,
        same_classes_as: str = "",
        source: str = "",
        extensions: Sequence[str] = EXTENSIONS,
        **kwargs: Any,
    ) -> None:
        self.same_classes_as = same_classes_as
        self.source = source
        super().__init__(*args, extensions=extensions, **kwargs)

    def _find_samples(self) -> list:
        folder = Path(self.img_prefix)
        if not folder.is_dir():
            raise MissingFileError(
                f"no image folder {folder} (looked at {folder.absolute()}): put or link the data there, one folder "
                f"of images a class, or name another place with --cfg-options data_root=FOLDER. {self.source}".rstrip()
            )
        if not any(self.is_valid_file(path.name) for path in folder.glob("*/**/*")):
            raise UserError(
                f"{folder.absolute()} has no image in a class folder (CLASS/*.jpg; "
                f"extensions {', '.join(sorted(self.extensions))}): is the split unpacked?"
            )
        other = Path(self.data_root or "", self.same_classes_as)
        if self.same_classes_as and other.is_dir():
            mine, theirs = _class_folders(folder), _class_folders(other)
            if mine != theirs:
                raise UserError(
                    f"{folder} and {other} must have the same class folders, their order gives the labels: "
                    f"missing {sorted(theirs - mine)[:5]}, unknown {sorted(mine - theirs)[:5]}"
                )
        samples = super()._find_samples()
        if self.with_label:
            self._check_folders(folder, {Path(name).parts[0] for name, _ in samples})
        return samples

    def _check_folders(self, folder: Path, filled: set[str]) -> None:
        """Refuse a class folder without image; say which files of others are left out."""
        left_out = _other_files(folder, self.is_valid_file)
        kinds = ", ".join(sorted(self.extensions))
        for name in sorted(_class_folders(folder) - filled):
            files = left_out.get(name)
            if files:
                raise UserError(
                    f"class folder {folder / name} has no image, only {_counts(files)}: images are {kinds}; convert "
                    "them, or, if OpenCV reads them, add the suffix to extensions=[...] of the data set of every split"
                )
            if not self.same_classes_as:
                raise UserError(
                    f"class folder {folder / name} is empty, and its class cannot be learnt: remove it, or "
                    f"put images there ({kinds})"
                )
        total = sum(left_out.values(), Counter())
        if total:
            _warn(f"{folder}: {_counts(total)} in class folders are left out; images are {kinds}")


def _class_folders(folder: Path) -> set[str]:
    # as mmpretrain lists them: without hidden ones
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}


def _other_files(folder: Path, is_image: Callable[[str], bool]) -> dict[str, Counter[str]]:
    """For each class folder the files that are no images, counted by suffix; hidden ones do not count."""
    found = {}
    for name in _class_folders(folder):
        files = (file for _, _, files in os.walk(folder / name) for file in files)
        counts = Counter(Path(file).suffix.lower() for file in files if not (is_image(file) or file.startswith(".")))
        if counts:
            found[name] = counts
    return found


def _counts(files: Counter[str]) -> str:
    return ", ".join(f"{count} file(s) {suffix or 'without suffix'}" for suffix, count in sorted(files.items()))


def _warn(sentence: str) -> None:
    print_log(sentence, logger="current", level=logging.WARNING)
