"""Packed files in mmdet and mmpretrain: a model that their inference and evaluation take as any other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.utils import import_modules_from_strings
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import PackedFile, RebnnFileError, read_file
from rebnn_mm.deploy.load import build_network
from rebnn_mm.deploy.model.pack import pack_model
from rebnn_mm.deploy.model.weights import graphs_of
from rebnn_mm.integrations.build import build_model, register_scope
from rebnn_mm.integrations.config import SCOPES, scope_of
from rebnn_mm.integrations.origin import refuse_other_model

# The registries take 'os.system' for a function to call. Of what stands in a file, only registered names are
# looked up, and only modules of these packages are imported.
PACKAGES = ("rebnn_mm", "mmengine", "mmcv", *SCOPES)
_TYPE_NAME = re.compile(rf"(({'|'.join(PACKAGES)})\.)?\w+")
_TYPE_KEYS = ("type", "base", "runner_type")


@MODELS.register_module()
def PackedModel(path: str, config: dict[str, Any] | None = None, exact: bool = True) -> nn.Module:
    """:func:`load_packed_model` for use as ``type`` in a config: ``model=dict(type='PackedModel', path='m.rebnn')``."""
    return load_packed_model(path, None if config is None else Config(config), exact)


def load_packed_model(path: str | Path, cfg: Config | None = None, exact: bool = True) -> nn.Module:
    """The file's detector or classifier as mmdet or mmpretrain builds it, with packed layers, on the CPU.

    ``test_step``, ``mode='predict'`` and the libraries' inference functions work as on the trained model;
    ``cfg`` and ``dataset_meta`` are set. Weights cannot be trained or moved to another device.

    Args:
        path: Written by ``tools/export.py``.
        cfg: Builds the model instead of the file's config, which may name registered types only.
        exact: As for :func:`rebnn_mm.deploy.load_model`.

    Raises:
        FileNotFoundError: ``path`` is no file.
        RebnnFileError: The file is damaged, its config is not acceptable, or does not fit its tensors.
        ValueError: ``cfg`` names a type that is not registered, or is for another model than the file's.
    """
    file = read_file(path)
    if cfg is None:
        cfg = file_config(file)
    else:
        refuse_other_model(path, file, cfg)
    with _plain_defaults(), _Uninitialized(file.size * 8):
        model = build_model(cfg)
    packed: Any = _as_classifier(model, file, exact) if "" in graphs_of(file) else pack_model(model, file, exact)
    classes = ModelCard.from_plain(file.info).classes
    _align_with_torchvision(packed)
    packed.cfg = cfg
    packed.dataset_meta = {"classes": classes} if classes else {}
    return packed


def _as_classifier(model: Any, file: PackedFile, exact: bool) -> nn.Module:
    """Mmpretrain's classifier around a graph from image to scores."""
    network = build_network(file, exact)
    return classifier_around(model, getattr(network, "network", network))


def classifier_around(model: Any, network: nn.Module) -> nn.Module:
    """Mmpretrain's classifier around ``network``, from normalized images to scores; its head only reads the scores.

    Raises:
        RebnnFileError: ``model`` is another model than an image classifier.
    """
    from mmpretrain.models import ClsHead, ImageClassifier, MultiLabelClsHead

    if not isinstance(model, ImageClassifier):
        raise RebnnFileError(f"the file holds a classifier, its config a {type(model).__name__}")
    head = model.head
    several = isinstance(head, MultiLabelClsHead)
    model.head = MultiLabelClsHead(thr=head.thr, topk=head.topk) if several else ClsHead()
    model.backbone, model.neck = _Scores(network), None
    return model.eval()


class _Scores(nn.Module):
    """A network in the place of a backbone: a tuple with its result."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.network(x),)


@contextmanager
def _plain_defaults() -> Iterator[None]:
    """Within the block, new tensors are float32 on the CPU, which is all that a packed model computes with."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def _align_with_torchvision(model: nn.Module) -> None:
    """Choose torchvision's RoIAlign, an option of mmcv's: on a CPU it has the same bits in half the time."""
    try:
        from mmcv.ops import RoIAlign
    except ImportError:  # mmcv without operators: a classifier does not need them
        return
    for module in model.modules():
        if isinstance(module, RoIAlign) and module.pool_mode == "avg":
            module.use_torchvision = True


def file_config(file: PackedFile) -> Config:
    """The config that a file carries, checked, with its imports done and its scope registered.

    Raises:
        RebnnFileError: There is none, or it names what is not a registered type or a module of ours.
    """
    config = file.info.get("config")
    if not isinstance(config, dict) or config.get("default_scope") not in SCOPES or "model" not in config:
        raise RebnnFileError(f"the file has no config of a model of {' or '.join(SCOPES)}: export it with its config")
    for name in _type_names(config):
        if not isinstance(name, str) or not _TYPE_NAME.fullmatch(name):
            raise RebnnFileError(f"the file's config has the type {name!r}: only registered names are looked up")
    imports = (config.get("custom_imports") or {}).get("imports") or []
    imports = [imports] if isinstance(imports, str) else imports
    foreign = [name for name in imports if str(name).split(".")[0] not in PACKAGES]
    if foreign:
        raise RebnnFileError(
            f"the file's config imports {foreign[0]!r}, and a file may import {', '.join(PACKAGES)} only: import your "
            "module yourself and give your config, load_packed_model(path, cfg)"
        )
    import_modules_from_strings(list(imports))
    cfg = Config(config)
    register_scope(scope_of(cfg))
    return cfg


def _type_names(value: Any) -> Iterator[Any]:
    """Everything in a config that a registry would look up."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _TYPE_KEYS and not isinstance(item, dict):
                yield item
            else:
                yield from _type_names(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _type_names(item)


class _Uninitialized(TorchFunctionMode):
    """Build modules without drawing their initial weights, and refuse more memory than a file can fill.

    Args:
        limit: Elements that the file can hold, its bits. All tensors made on the way together may have four times
            as many (alpha and gamma, temporaries), and small networks some more.
    """

    _RANDOM = {Tensor.uniform_, Tensor.normal_, torch.nn.init.trunc_normal_}
    _FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = 4 * limit + (1 << 24)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Skip random values, count the elements of new tensors."""
        if func in self._RANDOM:
            return args[0]
        if func in self._FACTORIES and args:
            shape = args[0] if isinstance(args[0], (tuple, list)) else [n for n in args if isinstance(n, int)]
            count = 64  # so that endless small modules end, too
            for n in shape:
                count *= max(int(n), 1)
            self.left -= count // 64 + 64
            if self.left < 0:
                raise RebnnFileError("the file's config asks for a model with far more weights than the file holds")
        return func(*args, **(kwargs or {}))
