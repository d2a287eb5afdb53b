"""What the classification configs add to MMPretrain: a folder data set that says what is wrong with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.files.images import IMAGE_SUFFIXES, counts_by_suffix, files_below, is_hidden


@DATASETS.register_module()
class CheckedImageFolder(CustomDataset):
    """Images in one folder a class, ``data_root/data_prefix/CLASS/*.jpg``, checked before training starts.

    Labels are the places of the folder names in sorted order, so two splits agree only if they have
    the same folders; ``same_classes_as`` holds them to it. A class folder with files none of which is an image
    is refused; so is an empty one, unless ``same_classes_as`` asks for it. Files left out are counted in a warning;
    hidden ones are passed by.

    Args:
        args, kwargs: As for mmpretrain's ``CustomDataset``.
        extensions: Suffixes of images, in any case; another one that OpenCV reads, as ``.jp2``, is named here
            for every split.
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
        extensions: Sequence[str] = IMAGE_SUFFIXES,
        **kwargs: Any,
    ) -> None:
        self.same_classes_as = same_classes_as
        self.source = source
        super().__init__(*args, extensions=extensions, **kwargs)

    def is_valid_file(self, filename: str) -> bool:
        """Whether a file below the split's folder is an image."""
        return not is_hidden(filename) and super().is_valid_file(filename)

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
        left_out = {name: self._other_files(folder / name) for name in _class_folders(folder)}
        kinds = ", ".join(sorted(self.extensions))
        for name in sorted(_class_folders(folder) - filled):
            files = left_out[name]
            if files:
                raise UserError(
                    f"class folder {folder / name} has no image, only {counts_by_suffix(files)}: images are {kinds}; "
                    "convert them, or, if OpenCV reads them, add the suffix to extensions=[...] of the data set of "
                    "every split"
                )
            if not self.same_classes_as:
                raise UserError(
                    f"class folder {folder / name} is empty, and its class cannot be learnt: remove it, or "
                    f"put images there ({kinds})"
                )
        others = [file for files in left_out.values() for file in files]
        if others:
            _warn(f"{folder}: {counts_by_suffix(others)} in class folders are left out; images are {kinds}")

    def _other_files(self, folder: Path) -> list[Path]:
        return [path for path in files_below(folder) if not self.is_valid_file(path.name)]


def _class_folders(folder: Path) -> set[str]:
    # as mmpretrain lists them: without hidden ones
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}


def _warn(sentence: str) -> None:
    print_log(sentence, logger="current", level=logging.WARNING)
