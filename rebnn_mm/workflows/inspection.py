"""What a config builds and reads: operation counts of its model, pictures of its data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from rebnn_mm.analysis.opcount import ModelCount, count_model
from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.files.atomic import check_results_folder
from rebnn_mm.integrations.build import build_model
from rebnn_mm.integrations.config import scope_of
from rebnn_mm.integrations.images.pictures import as_picture, build_visualizer, draw_boxes, draw_label
from rebnn_mm.integrations.images.pipeline import channel_order, dataset_of, image_channels, pipeline_of
from rebnn_mm.integrations.samples import data_sample
from rebnn_mm.progress import Progress

SPLITS = ("train", "val", "test")


def input_shape(cfg: Config) -> tuple[int, ...]:
    """What the config's data make: (H, W) of images, or (L,), the longest sequence of tokens.

    Where no step of a pipeline sets a size, that of the first test image is taken.

    Raises:
        ValueError: No size in the config, and no test image that could tell.
    """
    if scope_of(cfg) == "mmengine":
        return (cfg.test_dataloader.dataset.max_length,)
    try:
        return image_shape(cfg)
    except UserError as unknown:
        try:
            return tuple(_sample(_dataset(cfg, "test"), 0)["inputs"].shape[-2:])
        except (UserError, KeyError):
            raise unknown from None


def image_shape(cfg: Config) -> tuple[int, int]:
    """(H, W) of the images that the config's pipelines make.

    Raises:
        ValueError: No step of the test or train pipeline sets a size.
    """
    for split, keys in (("test", ("crop_size", "scale")), ("train", ("crop_size", "scale"))):
        sizes = [_step_size(step, keys) for step in pipeline_of(cfg, split)]
        found = [size for size in sizes if size]
        if found:
            return found[-1]  # a crop behind a resize decides
    raise UserError("the config's pipelines set no image size: give it, as in --shape 224 224")


def check_images(cfg: Config) -> None:
    """Raise ValueError if the config's data are no images."""
    if scope_of(cfg) == "mmengine":
        raise UserError("the config's data are texts, and this draws images; tools/test.py --out writes predictions")


def count_config(cfg: Config, shape: tuple[int, ...]) -> ModelCount:
    """Count the config's model for one image of ``shape`` (H, W), padded as the config pads, or a text of (L,) tokens.

    A two-stage detector's heads are counted for ``test_cfg.rpn.max_per_img`` proposals, the most
    there can be: how many survive suppression depends on weights and image.

    Raises:
        ValueError: ``shape`` is of another kind, not positive, or too small for the model.
    """
    text = scope_of(cfg) == "mmengine"
    if min(shape) < 1 or len(shape) != (1 if text else 2):
        given = " x ".join(map(str, shape))
        wanted = "tokens, as in --shape 128" if text else "height and width are positive, as in --shape 320 240"
        raise UserError(f"shape {given}: {wanted}")
    cfg = copy.deepcopy(cfg)  # Config.copy() shares the inner dicts
    rpn = (cfg.model.get("test_cfg") or {}).get("rpn")
    if rpn is not None and "nms" in rpn:
        rpn.nms.iou_threshold = 1.0
        rpn.min_bbox_size = -1  # boxes of an untrained model often end without an area
    model = build_model(cfg)
    if text:
        from rebnn_mm.integrations.bert import token_noise

        return count_model(model, lambda copied: copied(token_noise(cfg.model, (shape[0],))))
    try:
        return count_model(model, lambda copied: _forward(copied, scope_of(cfg), image_channels(cfg, model), shape))
    except RuntimeError as error:
        if not _takes_images(model, cfg, shape):
            raise  # of whatever size: no fault of the shape
        line = str(error).splitlines()[0]
        raise UserError(f"the model cannot take an image of {shape[0]} x {shape[1]}: {line}; try --shape") from error


def _takes_images(model: nn.Module, cfg: Config, but: tuple[int, ...]) -> bool:
    """Whether the model can be counted for an image of another size than ``but``."""
    for shape in ((32, 32), (224, 224), (800, 800)):
        if shape == but:
            continue
        try:
            channels = image_channels(cfg, model)
            count_model(model, lambda copied: _forward(copied, scope_of(cfg), channels, shape))  # noqa: B023  # at once
            return True
        except RuntimeError:
            continue
    return False


def browse(cfg: Config, out_dir: str | Path, split: str = "train", number: int | None = None) -> list[Path]:
    """Write the first ``number`` samples of a split, ground truth drawn, as the pipeline hands them over.

    Returns the files written, ``<index>_<image name>.png``; the colours are those of the file read, and what is no
    colour image is shown as :func:`rebnn_mm.integrations.images.pictures.as_picture` says.

    Raises:
        FileNotFoundError: The data set is not where the config says.
        ValueError: No such split, no samples, no images, or a pipeline without packing.
    """
    check_images(cfg)
    if split not in SPLITS or not cfg.get(f"{split}_dataloader"):
        has = [name for name in SPLITS if cfg.get(f"{name}_dataloader")]
        raise UserError(f"split {split!r}: the config has data for {', '.join(has) or 'no split'}")
    if number is not None and number < 1:
        raise UserError(f"number={number}: write at least one picture")
    check_results_folder(out_dir)
    dataset = _dataset(cfg, split)
    total = min(len(dataset), number or len(dataset))
    scope = scope_of(cfg)
    draw = DrawTruth(scope, dataset.metainfo, channel_order(cfg, split))
    files = []
    with Progress("pictures", total) as progress:
        for index in range(total):
            sample = _sample(dataset, index)
            if not isinstance(sample, dict) or "inputs" not in sample:
                raise UserError(f"{split} pipeline: its last step must pack the sample (PackDetInputs or PackInputs)")
            name = _stem(sample["data_samples"].get("img_path")) or f"sample{index}"
            file = Path(out_dir) / f"{index:05d}_{name}.png"
            draw(sample, file)
            files.append(file)
            progress.advance()
    return files


class DrawTruth:
    """Draws a packed sample with its ground truth into a file.

    Args:
        scope: ``'mmdet'`` or ``'mmpretrain'``.
        metainfo: The data set's, for class names and colours.
        order: ``'rgb'`` or ``'bgr'``, of the sample's channels.
    """

    def __init__(self, scope: str, metainfo: dict[str, Any], order: str = "bgr") -> None:
        self.scope = scope
        self.order = order
        self.visualizer = build_visualizer(scope, metainfo)

    def __call__(self, sample: dict[str, Any], file: Path) -> None:
        """Write ``sample`` to ``file``."""
        image = as_picture(sample["inputs"].permute(1, 2, 0).numpy(), self.order)
        if self.scope == "mmpretrain":
            draw_label(self.visualizer, image, sample["data_samples"], file, predictions=False)
            return
        truth = sample["data_samples"].numpy()
        boxes = truth.gt_instances.get("bboxes")
        if hasattr(boxes, "tensor"):  # mmdet's box type; the visualizer wants plain numbers
            truth.gt_instances.bboxes = boxes.tensor.numpy()
        masks = truth.gt_instances.get("masks")
        if hasattr(masks, "to_ndarray"):
            truth.gt_instances.masks = masks.to_ndarray().astype(bool)
        draw_boxes(self.visualizer, image, truth, file, draw_pred=False)


def _dataset(cfg: Config, split: str) -> Any:
    try:
        dataset = DATASETS.build(cfg[f"{split}_dataloader"]["dataset"])
        if hasattr(dataset, "full_init"):
            dataset.full_init()
    except (FileNotFoundError, NotADirectoryError) as error:
        root = dataset_of(cfg, split).get("data_root")
        raise MissingFileError(
            f"{split} data not found: {error}; data_root is {root!r}, set it with "
            f"--cfg-options {split}_dataloader.dataset.data_root=PATH"
        ) from None
    except ValueError as error:
        if "need at least one array" not in str(error):  # mmengine's words when it packs an empty list
            raise
        dataset = ()
    if len(dataset) == 0:
        raise UserError(f"the {split} split is empty: check its list of images and its classes in the config")
    return dataset


def _sample(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except (AssertionError, OSError, ValueError) as error:  # mmcv asserts that an image decodes
        path = dataset.get_data_info(index).get("img_path", "its image")
        raise UserError(f"sample {index} ({path}) cannot be read: {error}; mend or remove it") from error


def _stem(path: Any) -> str:
    """The name of an image without its ending; of one that is several files, the first one's."""
    first = path[0] if isinstance(path, (list, tuple)) and path else path
    return Path(first).stem if first else ""


def _forward(model: nn.Module, scope: str, channels: int, shape: tuple[int, ...]) -> Any:
    # Noise, not zeros: a constant image gives equal scores everywhere, and heads that keep the
    # best boxes would then see degenerate ties.
    image = torch.randint(0, 256, (channels, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=[image], data_samples=[data_sample(scope, shape)]), False)
    return model(data["inputs"], data["data_samples"], mode="tensor")


def _step_size(step: Any, keys: tuple[str, ...]) -> tuple[int, int] | None:
    """(H, W) that one pipeline step sets; mmcv and mmdet write a ``scale`` as (W, H)."""
    for key in keys:
        size = step.get(key)
        if isinstance(size, int):
            return size, size
        if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(value, int) for value in size):
            return (size[1], size[0]) if key == "scale" else (size[0], size[1])
    return None
