"""Random training batches and test images for stock models of mmpretrain and mmdet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, MODELS
from sweep_configs import find
from torch import Tensor, nn

from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.parts import Part
from rebnn_mm.workflows.detector_parts import detector_parts

# Steps of a training pipeline that need a file, or mix in other images of the data set
_FILE_STEPS = ("LoadImageFromFile",)
IMAGES = 2


class OtherInput(Exception):
    """The model takes something else than single labelled images."""


@dataclass(frozen=True)
class Inputs:
    """What one model is fed.

    Attributes:
        size: Height and width of the images.
        train: A batch as a data loader gives it.
        parts: Name -> model and (3, H, W) uint8 image -> tensors, in eval mode: what is compared after packing.
        features: Model and normalized batch (N, 3, H, W) -> logits, or a detector's features; what is timed.
        whole: Whether ``features`` is all that is compared, so that one graph can stand for the model.
    """

    size: int
    train: dict[str, Any]
    parts: dict[str, Callable[[nn.Module, Tensor], Any]]
    features: Callable[[nn.Module, Tensor], Any]
    whole: bool = False

    def forward(self, model: nn.Module, picture: Tensor) -> list[Tensor]:
        """Tensors of all parts; ``model`` may be the graph of the whole."""
        if isinstance(model, GraphNetwork):
            return flatten(model(normalized(picture)))
        model.eval()  # not chained: mmdet's distillers return nothing
        torch.manual_seed(0)  # a few draw a mask also in evaluation
        with torch.no_grad():
            return flatten([part(model, picture) for part in self.parts.values()])

    def timed(self, model: nn.Module, batch: Tensor) -> Any:
        """What is timed; ``model`` may be the graph of the whole."""
        return model(batch) if isinstance(model, GraphNetwork) else self.features(model, batch)

    def graphs(self, model: nn.Module) -> list[Part]:
        """What is stored as graphs: the whole model, or of a detector backbone, neck and towers."""
        pictures = torch.stack([image(self.size, self.channels, seed) for seed in (0, 1)])
        if not self.whole:
            return detector_parts(model, pictures)
        return [Part("", [normalized(pictures)], self.features, whole="network")]

    def usable(self, model: nn.Module) -> Inputs:
        """With those parts only that ``model`` can do: some detectors cannot give their heads' output alone.

        Raises:
            Exception: That of the first part, if the model can do none.
        """
        errors, works = [], {}
        model.eval()
        for name, part in self.parts.items():
            try:
                with torch.no_grad():
                    part(model, image(self.size, self.channels))
                works[name] = part
            except Exception as error:  # whatever keeps a stock model from running
                errors.append(error)
        if not works:
            raise errors[0]
        return replace(self, parts=works)

    @property
    def channels(self) -> int:
        """Of the images: 1 for LeNet."""
        first = self.train["inputs"]
        while not isinstance(first, Tensor):
            first = first[0]
        return int(first.shape[-3])


def check_input(cfg: Config) -> None:
    """Look at the config before anything is built.

    Raises:
        OtherInput: The model needs text, video, or several branches of data.
    """
    kind, preprocessor = cfg.model.type, cfg.model.get("data_preprocessor", {}).get("type", "")
    with MODELS.switch_scope_and_registry(None) as registry:
        module = getattr(registry.get(kind), "__module__", "")
    if ".multimodal" in module or "MultiModal" in preprocessor or find(cfg.model, "language_model"):
        raise OtherInput(f"{kind} takes images with text")
    if "Track" in preprocessor or any(word in module for word in (".mot.", ".vis.", ".reid.")):
        raise OtherInput(f"{kind} takes video")
    if "MultiBranch" in preprocessor:
        raise OtherInput(f"{kind} takes labelled and unlabelled images together")


def inputs_of(model: nn.Module, cfg: Config) -> Iterator[Inputs]:
    """Inputs to try, the cheapest first."""
    if cfg.default_scope == "mmdet":
        yield from _detection(model, cfg)
    else:
        yield from _pretraining(model, cfg)


def image(size: int, channels: int = 3, seed: int = 0) -> Tensor:
    """An image of noise, (channels, size, size) uint8, always the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, size, size), generator=generator, dtype=torch.uint8)


def normalized(picture: Tensor) -> Tensor:
    """(C, H, W) uint8 -> (1, C, H, W) around zero; a batch stays one."""
    return ((picture if picture.dim() == 4 else picture[None]).float() - 128) / 64


def flatten(outputs: Any) -> list[Tensor]:
    """All tensors of nested lists, dicts and data elements, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if hasattr(outputs, "all_items"):  # mmengine's data elements
        outputs = dict(outputs.all_items())
    if isinstance(outputs, dict):
        outputs = [value for _, value in sorted(outputs.items())]
    return [tensor for part in outputs for tensor in flatten(part)] if isinstance(outputs, (list, tuple)) else []


def _pretraining(model: nn.Module, cfg: Config) -> Iterator[Inputs]:
    kind = type(model).__module__
    own = _image_size(cfg)
    channels = len(cfg.model.data_preprocessor.get("mean") or (0, 0, 0))
    features = _backbone if ".selfsup" in kind else _logits
    parts = {"features": lambda part, picture: features(part, normalized(picture))}
    if ".selfsup" in kind:
        for size in (96, own):  # a small one does for networks without a position embedding
            yield Inputs(size, _self_supervised_batch(cfg, size), parts, features, whole=True)
        return
    for size in (64, 96, 128, own) if own > 128 else (own,):
        yield Inputs(size, _labelled_batch(size, channels), parts, features, whole=True)


def _image_size(cfg: Config) -> int:
    """What the config's pipeline crops or resizes images to."""
    pipeline = cfg.get("test_pipeline") or cfg.get("test_dataloader") or cfg.get("train_dataloader")
    sizes = [size for key in ("crop_size", "scale", "size") for size in find(pipeline, key) if isinstance(size, int)]
    return [*sizes, 224][0]


def _logits(model: nn.Module, batch: Tensor) -> Any:
    return model(batch, mode="tensor")


def _backbone(model: nn.Module, batch: Tensor) -> Any:
    parameters = inspect.signature(model.backbone.forward).parameters
    masked = "mask" in parameters or "importance" in parameters  # None: the whole image
    return model.backbone(batch, None) if masked else model.backbone(batch)


def _labelled_batch(size: int, channels: int) -> dict[str, Any]:
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label([index]) for index in range(IMAGES)]
    return dict(inputs=[image(size, channels, seed=index) for index in range(IMAGES)], data_samples=samples)


def _self_supervised_batch(cfg: Config, size: int) -> dict[str, Any]:
    """What the config's own training pipeline, its crops of ``size`` at most, makes of noise: views, masks, targets."""
    from mmengine.dataset import Compose
    from mmpretrain.registry import TRANSFORMS

    loader = cfg.train_dataloader
    steps = [_smaller(step, size) for step in loader.dataset.pipeline if step["type"] not in _FILE_STEPS]
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    rng = np.random.RandomState(0)
    samples = []
    for index in range(IMAGES):
        picture = rng.randint(0, 256, (256, 256, 3), dtype=np.uint8)
        meta = dict(img_path="noise", sample_idx=index, gt_label=index, ori_shape=(256, 256), img_shape=(256, 256))
        samples.append(pipeline(dict(img=picture, **meta)))
    collate = (loader.get("collate_fn") or dict(type="pseudo_collate"))["type"]
    return FUNCTIONS.get(collate)(samples)


def _smaller(value: Any, size: int) -> Any:
    """A pipeline's step with its crops reduced to ``size``."""
    if isinstance(value, dict):
        crops = ("scale", "crop_size", "size")
        return {
            key: min(item, size) if key in crops and isinstance(item, int) else _smaller(item, size)
            for key, item in value.items()
        }
    return type(value)(_smaller(item, size) for item in value) if isinstance(value, (list, tuple)) else value


def _detection(model: nn.Module, cfg: Config) -> Iterator[Inputs]:
    steps = [step["type"] for step in cfg.get("train_pipeline") or ()]
    semantic = any(find(cfg.get("train_pipeline"), "with_seg")) or "LoadPanopticAnnotations" in steps
    strides = (1, 4, 8) if semantic else (1,)
    parts = {"features": lambda part, picture: part.extract_feat(_sample(part, picture)["inputs"])}
    parts |= {"heads": _heads, "predictions": _predictions}
    for size in (128, 256, 320):
        for stride in strides:
            yield Inputs(size, _boxed_batch(model, cfg, size, stride, semantic), parts, _features)


def _boxed_batch(model: nn.Module, cfg: Config, size: int, stride: int, semantic: bool) -> dict[str, Any]:
    from mmdet.testing import demo_mm_inputs
    from mmdet.testing._utils import demo_mm_proposals

    counts = [count for count in find(cfg.model, "num_classes") if isinstance(count, int)] or [80]
    shape = (3, size, size)
    batch = demo_mm_inputs(
        IMAGES,
        shape,
        num_items=[3, 2],
        num_classes=max(2, min(10, *counts)),
        sem_seg_output_strides=stride,
        with_mask=semantic or any(find([cfg.get("train_pipeline"), cfg.get("train_dataloader")], "with_mask")),
        with_semantic=semantic,
    )
    for sample in batch["data_samples"]:
        if min(counts) == 1:
            sample.gt_instances.labels.zero_()
        if hasattr(model, "roi_head") and not model.with_rpn:
            sample.proposals = demo_mm_proposals([shape], 8)[0]
    return batch


def _sample(model: nn.Module, picture: Tensor) -> dict[str, Any]:
    from mmdet.structures import DetDataSample
    from mmdet.testing._utils import demo_mm_proposals

    size = tuple(picture.shape[1:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0, border=(0, size[0], 0, size[1]))
    sample = DetDataSample(metainfo=meta)
    if hasattr(model, "roi_head") and not model.with_rpn:
        sample.proposals = demo_mm_proposals([tuple(picture.shape)], 8)[0]
    return model.data_preprocessor(dict(inputs=[picture], data_samples=[sample]), False)


def _heads(model: nn.Module, picture: Tensor) -> Any:
    return model(**_sample(model, picture), mode="tensor")


def _predictions(model: nn.Module, picture: Tensor) -> Any:
    found = model(**_sample(model, picture), mode="predict")[0]
    return [found.get(key) for key in ("pred_instances", "pred_panoptic_seg") if key in found]


def _features(model: nn.Module, batch: Tensor) -> Any:
    return model.extract_feat(batch)
