"""Pictures of images with truth and predictions drawn in: colours, file names, and the hook behind --show-dir."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, VISUALIZERS
from mmengine.runner import Runner

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.config import scope_of
from rebnn_mm.integrations.images.pipeline import ImageReader, channel_order, image_channels

# what can be written with colours; a picture of another file is a PNG beside its name
_WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


def as_picture(image: np.ndarray, order: str = "rgb") -> np.ndarray:
    """Any image as RGB, (H, W, 3) uint8, to look at.

    One or two channels become grey by the first, more than three show the first three. Values of 0..255 stay, and are
    clipped; 0..1, 16 bits or normalized values are spread over 0..255.

    Args:
        image: (H, W) or (H, W, C), of any type of numbers.
        order: ``'rgb'`` or ``'bgr'``, of three or four channels.
    """
    image = image[..., None] if image.ndim == 2 else image
    channels = image.shape[2]
    if channels not in (1, 3, 4):
        _say_what_is_shown(channels)
    image = image[..., [0, 0, 0]] if channels < 3 else image[..., :3]
    if order == "bgr" and channels in (3, 4):
        image = image[..., ::-1]
    return np.ascontiguousarray(_eight_bits(image))


@cache
def _say_what_is_shown(channels: int) -> None:
    """Log it once for each number of channels."""
    what = "the first three as red, green and blue" if channels > 3 else "the first, in grey"
    print_log(f"images have {channels} channels: pictures show {what}", "current")


def _eight_bits(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    image = np.nan_to_num(image.astype(np.float64))
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if low >= 0 and high <= 1:
        image = image * 255
    elif not (low >= -255 and 16 < high <= 510):  # colour jitter goes beyond the ends, by less than this
        image = (image - low) * (255 / max(high - low, 1e-12))
    return image.clip(0, 255).astype(np.uint8)


def build_visualizer(scope: str, metainfo: dict[str, Any]) -> Any:
    """The library's visualizer, without storage backends, with class names and colours set."""
    kind = "DetLocalVisualizer" if scope == "mmdet" else "UniversalVisualizer"
    visualizer = VISUALIZERS.build(dict(type=kind, name=f"rebnn_mm_{scope}", _scope_=scope))
    meta = dict(metainfo)
    if scope == "mmdet" and len(meta.get("palette") or ()) < len(meta.get("classes") or ()):
        meta["palette"] = "random"  # seeded by mmdet, so the same in every picture
    visualizer.dataset_meta = meta
    return visualizer


def draw_label(
    visualizer: Any, image: np.ndarray, sample: Any, file: Path, truth: bool = True, predictions: bool = True
) -> None:
    """Write a classified image with its labels; small ones are enlarged until text is readable."""
    resize = 224 if min(image.shape[:2]) < 224 else None
    visualizer.visualize_cls(
        image, sample, resize=resize, draw_gt=truth, draw_pred=predictions, out_file=str(file), name=file.stem
    )


def picture_name(path: PurePath) -> PurePath:
    """The name of the picture drawn for ``path``: the same, with ``.png`` behind it if colours need another format."""
    return path if path.suffix.lower() in _WRITTEN else path.with_name(path.name + ".png")


class PictureNames:
    """Names for the pictures of many images: the folders below the one that all images share are kept.

    So images of equal names in different folders give different pictures. An image that comes again (tiles, a
    repeated data set) gets a number.

    Args:
        paths: Of all images.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        folders = {os.path.dirname(_absolute(path)) for path in paths}
        # paths of different backends, or of different drives, share none
        remote = {"://" in folder for folder in folders}
        self.root = os.path.commonpath(folders) if len(remote) == 1 else ""
        self.used: dict[PurePath, int] = {}

    def __call__(self, path: str) -> PurePath:
        """The picture's path below the folder of all pictures."""
        full = _absolute(path)
        below = os.path.relpath(full, self.root) if self.root else full.replace("://", "/").lstrip(os.sep)
        # an image that was not among the first ones given may lie elsewhere
        parts = [part for part in PurePath(below).parts if part not in (os.pardir, os.sep)]
        name = picture_name(PurePath(*parts))
        count = self.used[name] = self.used.get(name, 0) + 1
        return name if count == 1 else name.with_name(f"{name.stem}_{count}{name.suffix}")


def refuse_to_replace(paths: Sequence[str], folder: Path) -> None:
    """Raise UserError if a picture of ``paths`` in ``folder`` would be written over one of these images."""
    images = {os.path.realpath(path) for path in paths if "://" not in path}
    names = PictureNames(paths)
    for path in paths:
        picture = os.path.realpath(folder / names(path))
        if picture in images:
            raise UserError(
                f"the picture of {path} would replace the image {picture}: give another folder than {folder}"
            )


@HOOKS.register_module()
class PictureHook(Hook):
    """Writes a picture with truth and predictions of every test image, of detectors and classifiers.

    Images are read by the test pipeline's own loader, so whatever the model takes can be drawn; the pictures keep
    the images' folders, as :class:`PictureNames` says.

    Args:
        out_dir: Folder to write into.
        score_threshold: Boxes below it are not drawn.
    """

    priority = "NORMAL"

    def __init__(self, out_dir: str, score_threshold: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.score_threshold = score_threshold

    def before_test(self, runner: Runner) -> None:
        """Read the names of the images, and build what reads and draws them."""
        dataset = runner.test_dataloader.dataset
        paths = list(_image_paths(dataset))
        refuse_to_replace(paths, self.out_dir)
        self.names = PictureNames(paths)
        self.scope = scope_of(runner.cfg)
        self.reader = ImageReader(runner.cfg, "test", image_channels(runner.cfg, runner.model))
        self.order = channel_order(runner.cfg, "test")
        self.visualizer = build_visualizer(self.scope, runner.visualizer.dataset_meta or dataset.metainfo)
        self.count = 0

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw a batch."""
        for sample, pixels in zip(outputs or (), data_batch["inputs"], strict=True):
            path = sample.get("img_path")
            if isinstance(path, str):
                name, image = self.names(path), as_picture(self.reader.load(path).image, self.reader.order)
            else:  # a data set of arrays: the image as the model got it
                name = PurePath(f"{runner.rank * len(runner.test_dataloader.dataset) + self.count:06d}.png")
                image = as_picture(pixels.permute(1, 2, 0).cpu().numpy(), self.order)
            self.count += 1
            self._draw(image, sample, self.out_dir / name)

    def _draw(self, image: np.ndarray, sample: Any, file: Path) -> None:
        if self.scope == "mmdet":
            self.visualizer.add_datasample(
                file.stem, image, sample, pred_score_thr=self.score_threshold, out_file=str(file)
            )
        else:
            draw_label(self.visualizer, image, sample.cpu(), file)


def _image_paths(dataset: Any) -> Any:
    """Paths of a data set's images; none of a data set of arrays."""
    if not hasattr(dataset, "get_data_info"):
        return
    for index in range(len(dataset)):
        path = dataset.get_data_info(index).get("img_path")
        if isinstance(path, str):
            yield path


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)
