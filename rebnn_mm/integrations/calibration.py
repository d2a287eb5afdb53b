"""Images of a folder as inputs, and the regions that a detector finds in them: what 8 bits are scaled by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rebnn_mm.deploy.file.card import Preprocessing
from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.files.images import IMAGE_SUFFIXES, files_below
from rebnn_mm.integrations.samples import data_sample

MOST = 64  # images: more hardly move the least and the largest value


def calibration_images(
    folder: str | Path, preprocessing: Preprocessing | None, size: Sequence[int] | None, fit: bool = False
) -> list[Tensor]:
    """Up to ``MOST`` images of a folder and those within, evenly chosen, as normalized inputs (1, C, H, W).

    Args:
        folder: Of image files.
        preprocessing: Of the packed file.
        size: (H, W) of the inputs.
        fit: Keep the proportions, and fill up with the mean below and at the right.

    Raises:
        MissingFileError: There is no such folder.
        UserError: It holds no image, or one that cannot be read; a network that takes no images, or of no known size.
    """
    if preprocessing is None:
        raise UserError("--int8-rest is for networks that take images: this file says nothing of them")
    if size is None:
        raise UserError("--int8-rest needs the size of the images: give --size H W")
    if not Path(folder).is_dir():
        raise MissingFileError(f"--int8-rest {folder}: there is no such folder; name one with images of the data set")
    files = [path for path in files_below(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise UserError(f"--int8-rest {folder}: no image is in it ({', '.join(IMAGE_SUFFIXES)})")
    step = max(1, len(files) // MOST)
    return [_image(path, preprocessing, (int(size[0]), int(size[1])), fit) for path in files[::step][:MOST]]


def _image(path: Path, preprocessing: Preprocessing, size: tuple[int, int], fit: bool) -> Tensor:
    import mmcv

    from rebnn_mm.integrations.images.loading import LoadCheckedImage

    pixels = LoadCheckedImage().transform(dict(img_path=str(path)))["img"]  # type: ignore[index]
    wide, high = size[1], size[0]
    pixels = mmcv.imrescale(pixels, (wide, high)) if fit else mmcv.imresize(pixels, (wide, high))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()  # BGR
    image = image if preprocessing.channel_order == "bgr" else image.flip(0)
    if preprocessing.mean:
        mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (preprocessing.mean, preprocessing.std))
        image = (image - mean) / std
    return pad(image, (0, wide - image.shape[2], 0, high - image.shape[1]))[None]


def calibration_regions(detector: Any, images: Sequence[Tensor], batch: int, flat: bool) -> list[Tensor]:
    """What the RoI head's layers read in these images: rows (batch, C * h * w), or (batch, C, h, w).

    Args:
        detector: A packed two-stage detector of mmdet.
        images: Of :func:`calibration_images`.
        batch: Regions at once; the last ones are filled up with the first.
        flat: Regions are rows.
    """
    head = detector.roi_head
    first = head.shared_head if head.with_shared_head else head.bbox_head
    found: list[Tensor] = []
    handle = first.register_forward_pre_hook(lambda module, args: found.append(args[0].detach()))
    try:
        with torch.no_grad():
            for image in images:
                samples = [data_sample("mmdet", tuple(image.shape[2:]))]
                features = detector.extract_feat(image)
                proposals = detector.rpn_head.predict(features, samples, rescale=False)
                head.predict(features, proposals, samples, rescale=False)
    finally:
        handle.remove()
    regions = torch.cat(found)
    return in_batches(regions.flatten(1) if flat else regions, batch)


def in_batches(regions: Tensor, batch: int) -> list[Tensor]:
    """(R, ...) -> tensors of ``batch`` rows; the last one is filled up with the first rows, again and again if need be.

    Raises:
        UserError: There is no row.
    """
    if not len(regions):
        raise UserError(
            "--int8-rest: the detector proposes no region in these images; name a folder with images of its data set"
        )
    calls = -(-len(regions) // batch)
    rows = torch.arange(calls * batch) % len(regions)
    return list(regions[rows].split(batch))
