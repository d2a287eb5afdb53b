"""What the classification configs add to MMPretrain: a folder data set that says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from rebnn_mm.errors import MissingFileError, UserError


@DATASETS.register_module()
class CheckedImageFolder(CustomDataset):
    """Images in one folder a class, ``data_root/data_prefix/CLASS/*.jpg``, checked before training starts.

    Labels are the places of the folder names in sorted order, so two splits agree only if they have
    the same folders; ``same_classes_as`` holds them to it.

    Args:
        args, kwargs: As for mmpretrain's ``CustomDataset``.
        same_classes_as: Prefix of another split under ``data_root`` that must have the same class
            folders; not looked at where that split is absent (testing only).
        source: Where the data come from, for the message when they are missing.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No image in it; class folders other than those of ``same_classes_as``.
    """

    def __init__(self, *args: Any, same_classes_as: str = "", source: str = "", **kwargs: Any) -> None:
        self.same_classes_as = same_classes_as
        self.source = source
        super().__init__(*args, **kwargs)

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
        return super()._find_samples()


def _class_folders(folder: Path) -> set[str]:
    # as mmpretrain lists them: without hidden ones
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
