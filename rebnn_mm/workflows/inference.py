"""Pictures with predictions drawn in, for any detector or classifier config of ours."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.errors import MissingFileError, UserError, UserFileError
from rebnn_mm.files.atomic import check_results_folder
from rebnn_mm.files.images import files_below
from rebnn_mm.integrations.build import build_model
from rebnn_mm.integrations.checkpoint import is_packed_file, load_weights
from rebnn_mm.integrations.config import scope_of
from rebnn_mm.integrations.images.pictures import (
    as_picture,
    build_visualizer,
    draw_boxes,
    draw_label,
    picture_name,
    refuse_to_replace,
)
from rebnn_mm.integrations.images.pipeline import SUFFIXES, ImageReader, Loaded, dataset_of, image_channels, registered
from rebnn_mm.integrations.origin import load_trained
from rebnn_mm.integrations.packed import file_config, load_packed_model
from rebnn_mm.progress import Progress
from rebnn_mm.workflows.inspection import check_images


@dataclass(frozen=True)
class InferenceReport:
    """Files written, and the images that could not be read with the reason of each."""

    written: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]


class Inferencer:
    """A model with its weights, its test pipeline and its class names.

    Class names come from the checkpoint, else from the config's test data set. A classifier of mmpretrain
    gets its label drawn, a detector of mmdet its boxes. Files are read by the loader of the config's test pipeline.

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
        if not dataset_of(cfg, "test").get("pipeline"):
            raise UserError("the config has no test_dataloader with a pipeline: inference prepares images by it")
        self.scope = scope_of(cfg)
        self.score_threshold = score_threshold
        self.model, meta = (
            _load_packed(cfg, checkpoint, device)
            if is_packed_file(checkpoint)
            else _load_trained(cfg, checkpoint, device)
        )
        init_default_scope(self.scope)
        self.reader = ImageReader(cfg, "test", image_channels(cfg, self.model))
        self.visualizer = build_visualizer(self.scope, meta)

    def predict(self, path: str | Path) -> Any:
        """Data sample with the predictions for one image file.

        Raises:
            ValueError: The file cannot be read by the config's loader.
        """
        return self.predict_loaded(self.reader.load(path))

    def predict_loaded(self, loaded: Loaded) -> Any:
        """As :meth:`predict`, of a file that ``reader`` has read."""
        with torch.no_grad():
            return self.model.test_step(pseudo_collate([self.reader.prepare(loaded)]))[0]

    def draw(self, path: str | Path, file: Path) -> None:
        """Predict on one image file and write it to ``file`` with the prediction drawn in.

        Raises:
            UserError: As :meth:`predict`; an image too large to draw.
            UserFileError: The picture cannot be written, on a full disk for example.
        """
        loaded = self.reader.load(path)
        picture = as_picture(loaded.image, self.reader.order)
        sample = self.predict_loaded(loaded)
        if self.scope == "mmpretrain":
            draw_label(self.visualizer, picture, sample.cpu(), file, truth=False)
            return
        draw_boxes(self.visualizer, picture, sample, file, draw_gt=False, pred_score_thr=self.score_threshold)


def packed_config(path: str | Path) -> Config:
    """The config that a packed file carries.

    Raises:
        FileNotFoundError: ``path`` is no file.
        ValueError: It is no packed file, or carries no config that may be used.
    """
    return file_config(read_file(path))


def _load_packed(cfg: Config, path: str | Path, device: str | None) -> tuple[nn.Module, dict[str, Any]]:
    if device not in (None, "cpu"):
        raise UserError(f"device {device!r}: a packed file runs on the CPU")
    model: Any = load_packed_model(path, cfg)
    return model, {**dataset_meta({}, cfg), **model.dataset_meta}  # colours are the config's


def _load_trained(cfg: Config, path: str | Path, device: str | None) -> tuple[nn.Module, dict[str, Any]]:
    weights = load_weights(path)  # first: the cheapest check of what a user may get wrong
    model = build_model(cfg, device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    load_trained(model, weights, path, cfg)
    return model, dataset_meta(weights, cfg)


def find_images(source: str | Path, out_dir: str | Path, suffixes: Sequence[str] = SUFFIXES) -> list[tuple[Path, Path]]:
    """Pairs (image, file to write) for one image or a folder with its subfolders, in sorted order.

    Files under ``out_dir`` are results of an earlier run and left out, unless it is above the folder. Of a folder and
    of folders linked in it, files with one of ``suffixes`` are taken, without hidden ones; a single file may have any.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        ValueError: A folder without images, or an output that would replace an input.
    """
    source, out_dir = Path(source), Path(out_dir)
    if not source.exists():
        raise MissingFileError(f"{source} does not exist: give an image or a folder of images")
    check_results_folder(out_dir)
    if source.is_dir() and out_dir.resolve() == source.resolve():
        raise UserError(
            f"--out {out_dir} is the images' own folder: give another one, as pictures would be images there"
        )
    images = [source] if source.is_file() else _images_below(source, out_dir, suffixes)
    root = source if source.is_dir() else source.parent
    pairs = [(path, out_dir / picture_name(path.relative_to(root))) for path in images]
    refuse_to_replace(pairs)
    return pairs


def _images_below(source: Path, out_dir: Path, suffixes: Sequence[str]) -> list[Path]:
    images = [path for path in files_below(source) if path.suffix.lower() in suffixes]
    results = out_dir.resolve()
    if results not in source.resolve().parents:
        images = [path for path in images if results not in path.resolve().parents]
    if not images:
        raise UserError(f"folder {source} holds no image: files ending in {', '.join(suffixes)} are taken")
    return images


def infer(inferencer: Inferencer, pairs: Sequence[tuple[Path, Path]]) -> InferenceReport:
    """Draw predictions for all pairs of :func:`find_images`, with progress and time left on screen.

    An image that cannot be read or drawn is noted in the report and the others go on; of faults, the first one's
    traceback goes to stderr.

    Raises:
        UserFileError: A picture cannot be written.
    """
    written, failed, faults = [], [], 0
    with Progress("images", len(pairs)) as progress:
        for source, file in pairs:
            try:
                inferencer.draw(source, file)
                written.append(file)
            except UserFileError:
                raise  # a disk that has no room for this picture has none for the next
            except UserError as error:
                failed.append((source, str(error)))
            except Exception as error:  # of the network, for example, and perhaps for this image alone
                failed.append((source, f"{type(error).__name__}: {error}"))
                faults += 1
                if faults == 1:
                    traceback.print_exc()
            progress.advance()
    return InferenceReport(tuple(written), tuple(failed))


def dataset_meta(checkpoint: dict[str, Any], cfg: Config) -> dict[str, Any]:
    """Class names and colours: the checkpoint's, else the config's, else none (numbers are drawn)."""
    saved = checkpoint.get("meta") or {}
    meta = {key.lower(): value for key, value in (saved.get("dataset_meta") or {}).items()}
    if not meta.get("classes") and saved.get("CLASSES"):  # mmdet 2, mmcls
        meta["classes"] = saved["CLASSES"]
    return meta if meta.get("classes") else _config_meta(cfg)


def _config_meta(cfg: Config) -> dict[str, Any]:
    """Class names and colours of the config's test data set, whose files need not be there."""
    dataset = dataset_of(cfg, "test")
    kind = registered(DATASETS, dataset.get("type"))
    if kind is not None and issubclass(kind, BaseDataset):
        return dict(DATASETS.build(dict(dataset, lazy_init=True)).metainfo)
    return dict(dataset.get("metainfo") or {})  # a data set of the user's own kind says what its config says
