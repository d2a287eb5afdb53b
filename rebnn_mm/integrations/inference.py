"""Pictures with predictions drawn in, for any detector or classifier config of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.utils import ProgressBar
from PIL import Image
from torch import nn

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.integrations.build import build_model, scope_of
from rebnn_mm.integrations.checkpoint import is_packed_file, load_into, load_weights
from rebnn_mm.integrations.inspection import _pipeline, build_visualizer, check_images, draw_label

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


@dataclass(frozen=True)
class InferenceReport:
    """Files written, and the images that could not be read with the reason of each."""

    written: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]


class Inferencer:
    """A model with its weights, its test pipeline and its class names.

    Class names come from the checkpoint, else from the config's test data set. A classifier of mmpretrain
    gets its label drawn, a detector of mmdet its boxes.

    Args:
        cfg: From :func:`rebnn_mm.integrations.build.read_config`.
        checkpoint: Path of the weights, or of a packed ``.rebnn`` file; read without running code in them.
        device: Where to run; None takes the first GPU, else the CPU. A packed file runs on the CPU only.
        score_threshold: Boxes below it are not drawn.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: A model of texts, an unfit checkpoint, an unusable device, a threshold outside 0..1.
    """

    def __init__(
        self, cfg: Config, checkpoint: str | Path, device: str | None = None, score_threshold: float = 0.3
    ) -> None:
        check_images(cfg)
        if not 0 <= score_threshold <= 1:
            raise UserError(f"score threshold {score_threshold}: give a share, 0 to 1")
        if not _pipeline(cfg, "test"):
            raise UserError("the config has no test_dataloader with a pipeline: inference prepares images by it")
        self.scope = scope_of(cfg)
        self.score_threshold = score_threshold
        self.model, meta = (
            _load_packed(cfg, checkpoint, device)
            if is_packed_file(checkpoint)
            else _load_trained(cfg, checkpoint, device)
        )
        init_default_scope(self.scope)
        # The image is read by us, once, and handed over as an array.
        # pixels come from the caller, and there are no annotations to load
        steps = [step for step in _pipeline(cfg, "test") if not str(step["type"]).split(".")[-1].startswith("Load")]
        self.pipeline = Compose(steps)
        self.to_rgb = any(step.get("to_rgb") for step in _pipeline(cfg, "test") if "Load" in str(step["type"]))
        self.visualizer = build_visualizer(self.scope, meta)

    def predict(self, image: np.ndarray) -> Any:
        """Data sample with the predictions for one BGR image, (H, W, 3) uint8."""
        pixels = np.ascontiguousarray(image[..., ::-1]) if self.to_rgb else image
        size = image.shape[:2]
        data = self.pipeline(dict(img=pixels, img_shape=size, ori_shape=size, img_id=0, img_path=None))
        with torch.no_grad():
            return self.model.test_step(pseudo_collate([data]))[0]

    def draw(self, image: np.ndarray, file: Path) -> None:
        """Predict on one BGR image and write it to ``file`` with the prediction drawn in."""
        sample = self.predict(image)
        rgb = np.ascontiguousarray(image[..., ::-1])
        if self.scope == "mmpretrain":
            draw_label(self.visualizer, rgb, sample.cpu(), file, truth=False)
            return
        self.visualizer.add_datasample(
            file.stem, rgb, sample, draw_gt=False, pred_score_thr=self.score_threshold, out_file=str(file)
        )


def packed_config(path: str | Path) -> Config:
    """The config that a packed file carries.

    Raises:
        FileNotFoundError: ``path`` is no file.
        ValueError: It is no packed file, or carries no config that may be used.
    """
    from rebnn_mm.deploy.format import read_file
    from rebnn_mm.integrations.packed import file_config

    return file_config(read_file(path))


def _load_packed(cfg: Config, path: str | Path, device: str | None) -> tuple[nn.Module, dict[str, Any]]:
    from rebnn_mm.integrations.packed import load_packed_model

    if device not in (None, "cpu"):
        raise UserError(f"device {device!r}: a packed file runs on the CPU")
    model: Any = load_packed_model(path, cfg)
    return model, {**_dataset_meta({}, cfg), **model.dataset_meta}  # colours are the config's


def _load_trained(cfg: Config, path: str | Path, device: str | None) -> tuple[nn.Module, dict[str, Any]]:
    weights = load_weights(path)  # first: the cheapest check of what a user may get wrong
    model = build_model(cfg, device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    load_into(model, weights, path)
    return model, _dataset_meta(weights, cfg)


def find_images(source: str | Path, out_dir: str | Path) -> list[tuple[Path, Path]]:
    """Pairs (image, file to write) for one image or a folder with its subfolders, in sorted order.

    Files under ``out_dir`` are results of an earlier run and left out.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        ValueError: A folder without images, or an output that would replace an input.
    """
    source, out_dir = Path(source), Path(out_dir)
    if not source.exists():
        raise MissingFileError(f"{source} does not exist: give an image or a folder of images")
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"--out {out_dir} is a file: give a folder, it is made if it does not exist")
    root = source if source.is_dir() else source.parent
    if out_dir.resolve() == root.resolve():
        raise UserError(f"--out {out_dir} is the images' own folder, and would replace them: give another folder")
    if source.is_file():
        return [(source, out_dir / _file_name(Path(source.name)))]
    inputs = [
        path
        for path in sorted(source.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and out_dir.resolve() not in path.resolve().parents
    ]
    if not inputs:
        raise UserError(f"folder {source} holds no image: files ending in {', '.join(SUFFIXES)} are taken")
    return [(path, out_dir / _file_name(path.relative_to(source))) for path in inputs]


def read_image(path: Path) -> np.ndarray:
    """BGR image, (H, W, 3) uint8, turned upright by its EXIF tag as in training.

    Raises:
        ValueError: The file is no image, or is cut off: OpenCV alone would fill the rest with grey.
    """
    try:
        with Image.open(path) as probe:
            probe.load()
    except Exception as error:  # PIL's decoders raise what they like, SyntaxError and struct.error among it
        raise UserError(f"cannot be decoded ({str(error).replace(str(path), path.name)})") from None
    image = mmcv.imread(path)
    if image is None:
        raise UserError("cannot be decoded by OpenCV")
    return image


def infer(inferencer: Inferencer, pairs: Sequence[tuple[Path, Path]]) -> InferenceReport:
    """Draw predictions for all pairs of :func:`find_images`, with progress and time left on screen.

    An unreadable image is noted in the report and the others go on.
    """
    written, failed = [], []
    bar = ProgressBar(len(pairs))
    for source, file in pairs:
        try:
            image = read_image(source)
        except ValueError as error:
            failed.append((source, str(error)))
        else:
            inferencer.draw(image, file)
            written.append(file)
        bar.update()
    print()
    return InferenceReport(tuple(written), tuple(failed))


def _file_name(path: Path) -> Path:
    return path if path.suffix.lower() in SUFFIXES else path.with_name(path.name + ".png")


def _dataset_meta(checkpoint: dict[str, Any], cfg: Config) -> dict[str, Any]:
    """Class names and colours: the checkpoint's, else the config's, else none (numbers are drawn)."""
    saved = checkpoint.get("meta") or {}
    meta = {key.lower(): value for key, value in (saved.get("dataset_meta") or {}).items()}
    if not meta.get("classes") and saved.get("CLASSES"):  # mmdet 2, mmcls
        meta["classes"] = saved["CLASSES"]
    if not meta.get("classes"):
        from mmengine.registry import DATASETS

        dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
        meta = dict(dataset.metainfo)
    return meta
