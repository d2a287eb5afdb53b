"""ExecuTorch programs in mmdet and mmpretrain: a model that their evaluation takes as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import pad

from rebnn_mm.deploy.targets.executorch.program import ExecutorchProgram, load_executorch
from rebnn_mm.deploy.targets.executorch.sizes import sizes_of
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.build import build_model
from rebnn_mm.integrations.packed import classifier_around
from rebnn_mm.integrations.regions import METHOD, is_two_stage


@MODELS.register_module()
def ProgramModel(path: str, config: dict[str, Any]) -> nn.Module:
    """:func:`load_program_model` for use as ``type`` in a config."""
    return load_program_model(path, Config(config))


def load_program_model(path: str | Path, cfg: Config) -> nn.Module:
    """The model of ``cfg``, whose network is a program: images are normalized and results read in Python.

    Args:
        path: A classifier, or a detector of ``tools/export.py ... --part boxes``.
        cfg: The config that it was trained with. Of its model only what comes before and behind the network is used.

    Raises:
        MissingFileError, ProgramFileError, MissingPackageError: As for :func:`rebnn_mm.deploy.load_executorch`.
        UserError: The program is of another kind, or has other classes than the config.
    """
    program = load_executorch(path)
    model: Any = build_model(cfg).eval()
    kind = program.card["kind"]
    wanted = "detector" if cfg.default_scope == "mmdet" else "classifier"
    if kind != wanted:
        hint = ": export it with --part boxes --size H W" if wanted == "detector" else ""
        raise UserError(f"{path} is the program of a {kind}, and the config's is a {wanted}{hint}")
    if wanted == "classifier":
        return classifier_around(model, _EachImage(program))
    return _detector(model, program, path)


def _detector(model: Any, program: ExecutorchProgram, path: str | Path) -> nn.Module:
    # mmdet is there only for detectors
    from rebnn_mm.integrations.detection.program_detector import ProgramDetector, ProgramTwoStageDetector

    card = program.card["detector"]
    two = bool(card.get("regions"))
    if two != is_two_stage(model):
        kinds = ("one-stage", "two-stage")
        raise UserError(f"{path} is a {kinds[two]} detector's program, and the config's is a {kinds[not two]} one")
    head = model.roi_head.bbox_head if two else model.bbox_head
    classes = (card["regions"] if two else card)["classes"]
    if head.num_classes != classes:
        raise UserError(f"{path} tells {classes} classes apart, and the config's model {head.num_classes}")
    if two:
        return ProgramTwoStageDetector(_EachImage(program), _EachRegion(program), model)
    return ProgramDetector(_EachImage(program), head, model.data_preprocessor)


class _EachImage(nn.Module):
    """A program for one image -> a network for any number; images are filled up below and at the right."""

    def __init__(self, program: ExecutorchProgram) -> None:
        super().__init__()
        self._program = program
        self._size = tuple(program.card["inputs"][0]["shape"][2:])
        self._sizes = sizes_of(program.card["inputs"][0])
        self._fills = program.card["kind"] == "detector"

    def forward(self, images: Tensor) -> Any:
        """(N, C, H, W) -> the first result, or of detectors the tuple of all results."""
        results = [self._program(self._fitted(image)) for image in images]
        stacked = tuple(torch.cat(parts) for parts in zip(*results, strict=True))
        return stacked if self._fills else stacked[0]

    def _fitted(self, image: Tensor) -> Tensor:
        size = tuple(image.shape[1:])
        below, right = (whole - part for whole, part in zip(self._size, size, strict=True))
        if below < 0 or right < 0 or (not self._fills and (below or right)):
            raise UserError(
                f"the test pipeline gives an image of {size[0]}x{size[1]}, and the program is for "
                f"{self._size[0]}x{self._size[1]}: export another one with --size {size[0]} {size[1]}"
                f"{' or larger' if self._fills else ''}"
            )
        if self._sizes is not None:  # the smallest of the program's that it fits into
            below, right = (
                max(-(-n // self._sizes.multiple) * self._sizes.multiple, least) - n
                for n, least in zip(size, self._sizes.least, strict=True)
            )
        return pad(image, (0, right, 0, below))[None]


class _EachRegion(nn.Module):
    """A program's second method, for a fixed number of regions -> a network for any number."""

    def __init__(self, program: ExecutorchProgram) -> None:
        super().__init__()
        self._program = program
        self._shape = tuple(program.card["methods"][METHOD][0]["shape"])

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """(K, C, h, w) -> scores (K, classes + 1), deltas (K, ...)."""
        scores, deltas = zip(*(self._some(part) for part in regions.split(self._shape[0])), strict=True)
        return torch.cat(scores), torch.cat(deltas)

    def _some(self, regions: Tensor) -> list[Tensor]:
        filled = regions.new_zeros(self._shape)
        filled[: len(regions)] = regions.reshape(-1, *self._shape[1:])
        return [result[: len(regions)] for result in self._program.run(METHOD, filled)]
