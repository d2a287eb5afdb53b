"""Pictures of images with truth and predictions drawn in: colours, file names, and the hook behind --show-dir."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.visualization import BaseVisBackend

from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import write_bytes
from rebnn_mm.integrations.config import scope_of
from rebnn_mm.integrations.images.pipeline import ImageReader, channel_order, image_channels

# what can be written with colours; a picture of another file is a PNG beside its name
_WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
_READABLE = 224  # pixels of the shorter side that labels are readable in
_ENLARGED = 2048  # pixels of the longer side up to which images are enlarged
_DRAWN = 2**16 - 1  # pixels of a side: matplotlib draws no more


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


class PictureFiles(BaseVisBackend):
    """Where our visualizers put a picture: into the file that is its name, in the format of the name's ending."""

    def __init__(self) -> None:
        """Without the folder that other backends have."""

    @property
    def experiment(self) -> PictureFiles:
        """Itself: there is nothing to open."""
        return self

    def _init_env(self) -> None:
        """Nothing."""

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Write an RGB picture whole or not at all; folders are made.

        Raises:
            UserError: The format does not hold so many pixels.
            UserFileError: The file cannot be written, on a full disk for example.
        """
        file = Path(name)
        try:
            done, data = cv2.imencode(file.suffix, image[..., ::-1])
        except cv2.error:
            done = False
        if not done:
            height, width = image.shape[:2]
            raise UserError(
                f"a picture of {width} x {height} pixels cannot be written as {file.suffix}: make the image smaller"
            )
        write_bytes(file, data.tobytes(), make_folder=True)


def build_visualizer(scope: str, metainfo: dict[str, Any]) -> Any:
    """The library's visualizer, which writes :class:`PictureFiles`, with class names and colours set."""
    kind = "DetLocalVisualizer" if scope == "mmdet" else "UniversalVisualizer"
    visualizer = VISUALIZERS.build(
        dict(type=kind, name=f"rebnn_mm_{scope}", vis_backends=[PictureFiles()], _scope_=scope)
    )
    meta = dict(metainfo)
    if scope == "mmdet" and len(meta.get("palette") or ()) < len(meta.get("classes") or ()):
        meta["palette"] = "random"  # seeded by mmdet, so the same in every picture
    visualizer.dataset_meta = meta
    return visualizer


def draw_label(
    visualizer: Any, image: np.ndarray, sample: Any, file: Path, truth: bool = True, predictions: bool = True
) -> None:
    """Write a classified image with its labels, in a picture large enough to read them.

    Raises: as :func:`draw_boxes`.
    """
    _check_size(image)
    visualizer.visualize_cls(_with_room(image), sample, draw_gt=truth, draw_pred=predictions, name=str(file))


def draw_boxes(visualizer: Any, image: np.ndarray, sample: Any, file: Path, **options: Any) -> None:
    """Write an image with its boxes and masks; ``options`` are those of mmdet's ``add_datasample``.

    Raises:
        UserError: The image has more pixels on a side than can be drawn, or than the file's format holds.
        UserFileError: The picture cannot be written, on a full disk for example.
    """
    _check_size(image)
    visualizer.add_datasample(str(file), image, sample, **options)


def _check_size(image: np.ndarray) -> None:
    height, width = image.shape[:2]
    if max(height, width) > _DRAWN:
        raise UserError(f"{width} x {height} pixels cannot be drawn: cut or shrink it to {_DRAWN:,} on a side")


def _with_room(image: np.ndarray) -> np.ndarray:
    """An image enlarged until text is readable; what is too long for that gets grey beside it."""
    height, width = image.shape[:2]
    scale = min(_READABLE / min(height, width), _ENLARGED / max(height, width))
    if scale > 1:
        height, width = round(height * scale), round(width * scale)
        image = mmcv.imresize(image, (width, height))
    missing = (max(0, _READABLE - height), max(0, _READABLE - width))
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), constant_values=128)


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


def refuse_to_replace(pairs: Sequence[tuple[str | Path, Path]]) -> None:
    """Raise UserError if one of the pictures of (image, picture) would be written over one of the images."""
    images = {os.path.realpath(image) for image, _ in pairs if "://" not in str(image)}
    for image, picture in pairs:
        if os.path.realpath(picture) in images:
            raise UserError(
                f"the picture of {image} would replace the image {picture}: give another folder than "
                f"{picture.parent} for the pictures"
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
        names = PictureNames(paths)
        refuse_to_replace([(path, self.out_dir / names(path)) for path in paths])
        self.names = PictureNames(paths)  # anew: those above have dealt out their names
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
            draw_boxes(self.visualizer, image, sample, file, pred_score_thr=self.score_threshold)
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
