"""From a config's ``teacher`` entry to a frozen network with its weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import Tensor, nn

from rebnn_mm.distill import FrozenTeacher
from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.integrations.checkpoint import load_into, load_weights
from rebnn_mm.integrations.config import find_config, parse_config, scope_of

_KEYS = {"config", "checkpoint"}
_TORCHVISION = "https://download.pytorch.org/models/resnet34-b627a593.pth"


class Taught:
    """What distilled models share: a teacher that is read when training starts, and is no part of the model.

    To be inherited beside a model of mmdet or mmpretrain, before it.
    """

    teacher_method = "forward"  # of the teacher, called with the images

    def set_teacher(self, teacher: dict[str, Any]) -> None:
        """Remember the config's ``teacher`` entry; no file is read.

        Raises:
            ValueError: Not a dict of ``config`` and ``checkpoint``.
        """
        if not isinstance(teacher, dict) or set(teacher) != _KEYS:
            given = sorted(teacher) if isinstance(teacher, dict) else repr(teacher)
            raise UserError(
                f"teacher={given}: give dict(config=..., checkpoint=...), a config file or a model's dict, and its "
                "weights"
            )
        self._teacher_cfg = teacher
        self._teacher: FrozenTeacher | None = None

    @property
    def teacher(self) -> FrozenTeacher:
        """The teacher, built and loaded at the first reading."""
        if self._teacher is None:
            self._teacher = build_teacher(self._teacher_cfg, self, self.teacher_method)
        return self._teacher

    def init_weights(self) -> None:
        """Initialise the student as the plain model, and read the teacher before the first iteration."""
        super().init_weights()
        _ = self.teacher


def build_teacher(teacher: dict[str, Any], student: Any, method: str = "forward") -> FrozenTeacher:
    """Build the teacher, load its weights and freeze it.

    Args:
        teacher: ``config``, the path of a config file (see :func:`rebnn_mm.integrations.config.find_config`) or a
            model's dict, and ``checkpoint``, the path of its weights, which must be all of them. A classifier also
            takes torchvision's layout of a ResNet (``conv1``, ``layer1.0.conv1``, ..., ``fc``).
        student: What it will teach; both see the same normalized images.
        method: Method of the teacher that is called with the images.

    Raises:
        FileNotFoundError: Config or checkpoint is not there.
        ValueError: The checkpoint does not fit, or the teacher's config normalizes images in another way.
    """
    module = MODELS.build(_model_config(teacher["config"]))
    _check_preprocessing(module, student, teacher["config"])
    path = teacher["checkpoint"]
    if not path or not Path(path).is_file():
        raise MissingFileError(
            f"the teacher's checkpoint {path} is not a file: train the teacher, or for ImageNet download torchvision's "
            f"ResNet-34 from {_TORCHVISION}; another place is named with --cfg-options model.teacher.checkpoint=FILE"
        )
    weights = load_weights(path)
    weights["state_dict"] = from_torchvision(weights["state_dict"])
    load_into(module, weights, path)
    return FrozenTeacher(module, method)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's ResNet weights to those of MMPretrain's ImageClassifier; others are returned as they are.

    Both number layers and blocks alike: ``fc.*`` becomes ``head.fc.*``, all else gets the prefix ``backbone.``.
    """
    if not {"conv1.weight", "layer1.0.conv1.weight", "fc.weight"} <= set(state):
        return state
    return {f"head.{name}" if name.startswith("fc.") else f"backbone.{name}": value for name, value in state.items()}


def _model_config(config: str | Path | dict[str, Any]) -> ConfigDict:
    """Model part of a config file, its preprocessing put in as the runner does, or the dict itself; no weights."""
    if isinstance(config, (str, Path)):
        scope = DefaultScope.get_current_instance()
        cfg = parse_config(find_config(config))
        if scope is not None and scope.scope_name != scope_of(cfg):
            raise UserError(
                f"the teacher {config} is for {scope_of(cfg)}, the student for {scope.scope_name}: a classifier learns "
                "from a classifier, a detector from a detector"
            )
        init_default_scope(scope_of(cfg))
        model = copy.deepcopy(cfg.model)
        if cfg.get("data_preprocessor") is not None:
            model.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    else:
        model = ConfigDict(copy.deepcopy(config))
    for part in (model, model.get("backbone") or {}):  # the checkpoint brings all weights; nothing to download
        part.pop("pretrained", None)
        part.pop("init_cfg", None)
    return model


def _check_preprocessing(teacher: nn.Module, student: Any, config: Any) -> None:
    """The student's images go to the teacher as they are: refuse a teacher that was trained on others."""
    theirs, mine = _normalization(teacher), _normalization(student)
    if theirs is None or mine is None:  # a model's dict may leave it out
        return
    for (name, a), b in zip(theirs.items(), mine.values(), strict=True):
        if not torch.allclose(a, b):
            raise UserError(
                f"the teacher {config} normalizes images with {name}={a.tolist()}, the student with {b.tolist()}: give "
                "both configs the same data_preprocessor"
            )


def _normalization(model: Any) -> dict[str, Tensor] | None:
    preprocessor = getattr(model, "data_preprocessor", None)
    if getattr(preprocessor, "mean", None) is None:
        return None
    swapped = getattr(preprocessor, "to_rgb", getattr(preprocessor, "_channel_conversion", False))
    mean, std = (getattr(preprocessor, name).flatten() for name in ("mean", "std"))
    return dict(mean=mean, std=std, to_rgb=torch.tensor([float(bool(swapped))]))
