"""Reading images and finding data sets, with one clear sentence when either fails."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS

from rebnn_mm.errors import MissingFileError, UserError


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
        f"{what} is not at {os.path.abspath(path)}: link your copy there (ln -s SOURCE {path}), make a small one with "
        f"'python tools/make_demo_data.py', or name its folder with --cfg-options data_root=FOLDER"
    )


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile, which names the file when it is missing, corrupt or cut short.

    OpenCV fills what a truncated JPEG lacks with grey and says nothing; here it is an error. Gray-scale
    images become 3 channels (``color_type='color'``). With ``ignore_empty=True`` a bad image gives None, and
    mmdet's and mmpretrain's data sets draw another one.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It cannot be decoded.
    """

    def transform(self, results: dict) -> dict | None:
        """Add ``img`` (H, W, 3), ``img_shape`` and ``ori_shape`` (both (H, W)) for ``results['img_path']``."""
        path = results["img_path"]
        try:
            image = self._read(path)
        except (FileNotFoundError, ValueError):
            if self.ignore_empty:
                return None
            raise
        if self.to_float32:
            image = image.astype(np.float32)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results

    def _read(self, path: str) -> np.ndarray:
        try:
            data = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError:
            raise MissingFileError(f"image {os.path.abspath(path)}, which the data set lists, is missing") from None
        except IsADirectoryError:
            raise UserError(f"image {path} is a folder") from None
        if not data:
            raise UserError(f"image {path} is an empty file")
        if _is_cut_jpeg(data):
            raise UserError(f"image {path} is a truncated JPEG ({len(data)} bytes): copy or download it again")
        try:
            image = mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
        except (cv2.error, OSError, SyntaxError) as error:  # Pillow raises the last two
            raise UserError(f"image {path} cannot be decoded: {error}") from error
        if image is None:
            raise UserError(f"image {path} cannot be decoded: {len(data)} bytes that are no known image format")
        return image


def _is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG ends before its end-of-image marker.

    Within the pixels a 0xFF is always followed by 0x00 or a restart marker, so the marker cannot occur there by
    chance; that of an embedded thumbnail comes before the last start of scan.
    """
    return data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", max(data.rfind(b"\xff\xda"), 0)) < 0
