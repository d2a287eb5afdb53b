"""Reading images and finding data sets, with one clear sentence when either fails."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.integrations.images.header import ImageHeader, is_cut_jpeg, kind_of, read_header
from rebnn_mm.integrations.images.size import explain_misfit, fits, is_unsure, unsure_warning


def require_data(path: str | Path, what: str) -> None:
    """Fail with the way to get the data when ``path`` does not exist.

    Args:
        path: File or folder that must be there; paths such as ``s3://...`` are left to their backend.
        what: What it holds, e.g. ``'the VOC data set'``.

    Raises:
        FileNotFoundError: It is not there.
    """
    if "://" in str(path) or os.path.exists(path):
        return
    raise MissingFileError(
        f"{what} is not at {os.path.abspath(path)}: link your copy there (ln -s SOURCE {path}), or name its folder "
        "with --cfg-options data_root=FOLDER; 'python tools/make_demo_data.py' makes the data of configs/*_demo.py"
    )


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile, which names the file when it is missing, corrupt or cut short.

    OpenCV fills what a truncated JPEG lacks with grey and says nothing; here it is an error. Gray-scale
    images become 3 channels (``color_type='color'``). With ``ignore_empty=True`` a bad image gives None, and
    mmdet's and mmpretrain's data sets draw another one.

    A detection data set knows the size its boxes were drawn for (``width``, ``height``): a picture of another size
    is an error. Photos are turned upright by their EXIF tag, unless ``color_type`` ends with ``ignore_orientation``.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It cannot be decoded, or has another size than its annotation says.
    """

    _warned_of_exif = False

    def transform(self, results: dict) -> dict | None:
        """Add ``img`` (H, W, 3), ``img_shape`` and ``ori_shape`` (both (H, W)) for ``results['img_path']``."""
        path = results["img_path"]
        try:
            data = self._read(path)
            image = self._decode(data, path)
        except (FileNotFoundError, ValueError):
            if self.ignore_empty:
                return None
            raise
        self._hold_against_annotation(results, data, image)
        if self.to_float32:
            image = image.astype(np.float32)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results

    def _read(self, path: str) -> bytes:
        try:
            data = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError:
            raise MissingFileError(f"image {os.path.abspath(path)}, which the data set lists, is missing") from None
        except IsADirectoryError:
            raise UserError(f"image {path} is a folder") from None
        if not data:
            raise UserError(f"image {path} is an empty file")
        if is_cut_jpeg(data):
            raise UserError(f"image {path} is a truncated JPEG ({len(data)} bytes): copy or download it again")
        return data

    def _decode(self, data: bytes, path: str) -> np.ndarray:
        try:
            image = mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
        except (cv2.error, OSError, SyntaxError) as error:  # Pillow raises the last two
            raise UserError(f"image {path} cannot be decoded: {error}") from error
        if image is None:
            kind = kind_of(data)
            what = f", a broken or truncated {kind}" if kind else " that are no known image format"
            raise UserError(f"image {path} cannot be decoded: {len(data)} bytes{what}")
        return image

    def _hold_against_annotation(self, results: dict, data: bytes, image: np.ndarray) -> None:
        """Refuse a picture of another size than its boxes were drawn for."""
        if not results.get("width") or not results.get("height"):
            return  # a classifier's
        path, annotated, size = results["img_path"], (results["width"], results["height"]), image.shape[1::-1]
        unchecked = results.pop("exif_unchecked", False) and not self._warned_of_exif
        if fits(annotated, size) and not unchecked:
            return
        header = read_header(data) or ImageHeader("", size, 1)  # a kind that Pillow does not know
        misfit = explain_misfit(path, annotated, header, turned=fits(size, header.upright))
        if misfit:
            raise UserError(misfit)
        if unchecked and is_unsure(header):
            self._warned_of_exif = True  # once in each worker
            print_log(unsure_warning("while loading", [path]), logger="current", level=logging.WARNING)
