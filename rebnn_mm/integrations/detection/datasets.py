"""mmdet's VOC and COCO data sets, made to refuse or report annotations that would train or evaluate wrongly."""

from __future__ import annotations

import logging
import os
import xml.etree.ElementTree as ET
from typing import Any

from mmcv.transforms import LoadAnnotations
from mmdet.datasets import CocoDataset, VOCDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS
from mmengine.logging import print_log

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.integrations.detection.boxes import BoxCheck, check_class_names, check_known, check_split
from rebnn_mm.integrations.detection.coco_file import check_masks, check_order, open_coco
from rebnn_mm.integrations.detection.metrics import CheckedCocoMetric, CheckedVOCMetric
from rebnn_mm.integrations.detection.voc_file import PictureFinder, mend_difficult, read_split
from rebnn_mm.integrations.images.loading import require_data
from rebnn_mm.integrations.images.size import check_pictures, first_names, one_of_exif, unsure_warning

__all__ = ["CheckedCocoDataset", "CheckedCocoMetric", "CheckedVOCDataset", "CheckedVOCMetric"]

_ERROR_OR_IGNORE = ("error", "ignore")


class _Checks:
    """What both data sets check, and the options that say how strictly."""

    def __init__(self, unknown_classes: str, no_boxes: str, exif: str, metainfo: dict | None) -> None:
        for name, value in (("unknown_classes", unknown_classes), ("no_boxes", no_boxes)):
            if value not in _ERROR_OR_IGNORE:
                raise UserError(f"{name}={value!r} is not one of {_ERROR_OR_IGNORE}")
        check_class_names(metainfo)
        self.unknown_classes = unknown_classes
        self.no_boxes = no_boxes
        self.exif = one_of_exif(exif)
        self.boxes = BoxCheck()

    def loaded(self, dataset: VOCDataset | CocoDataset, data_list: list[dict]) -> list[dict]:
        """Say what was done to the boxes, and hold the sizes against the pictures."""
        ann_file = dataset.ann_file
        _warn(*self.boxes.warnings(ann_file))
        unsure = check_pictures(data_list, dataset.pipeline.transforms, self.exif)
        if unsure:
            _warn(unsure_warning(ann_file, unsure))
        return _not_empty(data_list, f"{ann_file} lists no image")

    def filtered(self, dataset: VOCDataset | CocoDataset, data_list: list[dict]) -> list[dict]:
        """Refuse what a filter leaves without images, and without boxes where boxes are used."""
        ann_file = dataset.ann_file
        _not_empty(data_list, f"filter_cfg={dataset.filter_cfg} leaves no image of {ann_file}")
        if self.no_boxes == "error" and _annotation_steps(dataset):
            _warn(*check_split(data_list, dataset.metainfo["classes"], ann_file, dataset.test_mode))
        return data_list


@DATASETS.register_module()
class CheckedVOCDataset(VOCDataset):
    """mmdet's VOCDataset with annotations checked while they are read.

    Boxes without area are dropped and boxes reaching out of the image clipped, both with one warning. A picture is
    found by its id with any usual suffix, else by ``<filename>``. Its size is held against the annotation's.

    Args:
        unknown_classes: ``'error'``, or ``'ignore'`` to skip objects of classes that ``metainfo`` does not have.
        no_boxes: ``'error'``, or ``'ignore'`` for a part of a data set that is background on purpose.
        exif: ``'warn'`` where photos are turned by EXIF and their size does not tell how they were annotated;
            ``'upright'``: boxes were drawn on the upright picture.
        kwargs: As mmdet's VOCDataset.

    Raises:
        FileNotFoundError: The data set, its split or an annotation is missing.
        ValueError: An unknown class, an unreadable annotation, an annotation of another size than its picture, an
            empty split or one without boxes.
    """

    def __init__(
        self, unknown_classes: str = "error", no_boxes: str = "error", exif: str = "warn", **kwargs: Any
    ) -> None:
        self.checks = _Checks(unknown_classes, no_boxes, exif, kwargs.get("metainfo"))
        self._find_picture = PictureFinder()
        self._unclear_difficult: list[str] = []
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry for each image of the split."""
        _require(self, "the VOC data set", "split list")
        self.cat2label = {name: label for label, name in enumerate(self._metainfo["classes"])}
        annotations = os.path.join(self.sub_data_root, self.ann_subdir)
        ids, repeated = read_split(self.ann_file, annotations, self.backend_args)
        if repeated:
            _warn(f"{self.ann_file} lists {len(repeated)} id(s) more than once, taken once: {first_names(repeated)}")
        data_list = [self._read(image_id, os.path.join(annotations, f"{image_id}.xml")) for image_id in ids]
        unclear = self._unclear_difficult
        if unclear:
            _warn(
                f"{self.ann_file}: <difficult> of {len(unclear)} object(s) is empty or Unspecified, taken as 0: "
                f"{first_names(unclear)}"
            )
        return self.checks.loaded(self, data_list)

    def filter_data(self) -> list[dict]:
        """As mmdet, but never down to nothing."""
        return self.checks.filtered(self, super().filter_data())

    def _read(self, image_id: str, xml: str) -> dict:
        pictures = os.path.join(self.sub_data_root, self.img_subdir)
        file_name = os.path.join(self.img_subdir, self._find_picture(pictures, image_id, xml))
        return self.parse_data_info(dict(img_id=image_id, file_name=file_name, xml_path=xml))

    def parse_data_info(self, img_info: dict) -> dict:
        """Read one XML file."""
        xml = img_info["xml_path"]
        try:
            info = super().parse_data_info(img_info)
        except FileNotFoundError as error:
            raise MissingFileError(
                f"{error.filename or xml} does not exist, but {self.ann_file} lists {img_info['img_id']!r}"
            ) from error
        except (ET.ParseError, ValueError, OverflowError) as error:  # the last: an infinite coordinate
            raise UserError(f"{xml} is no usable VOC annotation: {error}") from error
        except (AttributeError, TypeError) as error:  # what find(...).text gives where a tag is missing or empty
            raise UserError(
                f"{xml} is no usable VOC annotation: one of size/width, size/height, object/name and "
                "object/bndbox/xmin, ymin, xmax, ymax is missing or empty"
            ) from error
        width, height = info["width"], info["height"]
        if width <= 0 or height <= 0:
            raise UserError(f"{xml} is no usable VOC annotation: its image size is {width} x {height}")
        info["instances"] = self.checks.boxes(info["instances"], width, height, xml)
        return info

    def _parse_instance_info(self, raw_ann_info: ET.ElementTree, minus_one: bool = True) -> list[dict]:
        objects = raw_ann_info.findall("object")
        names = {str(obj.find("name").text) for obj in objects}
        check_known(names, self._metainfo["classes"], self.checks.unknown_classes)
        unclear = mend_difficult(objects)
        self._unclear_difficult += [raw_ann_info.findtext("filename") or "an unnamed picture"] * unclear
        return super()._parse_instance_info(raw_ann_info, minus_one)


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """mmdet's CocoDataset with the annotation file checked while it is read.

    Boxes without area are dropped and boxes reaching out of the image clipped, both with one warning. What can only
    mean one thing is mended, with a warning: see :class:`CheckedCocoMetric`, which does the same for the evaluation.
    Each picture's size is held against the annotation's.

    Args:
        unknown_classes: ``'error'``, or ``'ignore'`` to skip categories that ``metainfo`` does not have.
        no_boxes: ``'error'``, or ``'ignore'`` for a part of a data set that is background on purpose.
        exif: ``'warn'`` where photos are turned by EXIF and their size does not tell how they were annotated;
            ``'upright'``: boxes were drawn on the upright picture.
        kwargs: As mmdet's CocoDataset.

    Raises:
        FileNotFoundError: The data set or its annotation file is missing.
        ValueError: Categories that do not fit ``metainfo``, ids that repeat, an annotation of another size than its
            picture, an unreadable or empty annotation file, or one without boxes.
    """

    def __init__(
        self, unknown_classes: str = "error", no_boxes: str = "error", exif: str = "warn", **kwargs: Any
    ) -> None:
        self.checks = _Checks(unknown_classes, no_boxes, exif, kwargs.get("metainfo"))
        self.mended: tuple[str, ...] = ()
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry for each image of the annotation file."""
        _require(self, "the COCO data set", "annotation file")
        return self.checks.loaded(self, super().load_data_list())

    def filter_data(self) -> list[dict]:
        """As mmdet, without images all of whose boxes were dropped, but never down to nothing."""
        data_list = super().filter_data()
        if not self.test_mode and (self.filter_cfg or {}).get("filter_empty_gt"):
            data_list = [entry for entry in data_list if entry["instances"]]
        if self.test_mode and not any(entry["instances"] for entry in self.data_list) and not self._has_annotations:
            return data_list  # the images of a challenge, whose annotations are not public
        return self.checks.filtered(self, data_list)

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Convert one image's annotations."""
        image, annotations = raw_data_info["raw_img_info"], raw_data_info["raw_ann_info"]
        name = image.get("file_name", f"image {image['img_id']}")
        try:
            info = super().parse_data_info(raw_data_info)
            wanted = sum(a["category_id"] in self.cat_ids and not a.get("ignore", False) for a in annotations)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.ann_file}: the entry or a box of {name} is incomplete: {error!r}") from error
        # mmdet leaves out boxes below one pixel without a word
        self.checks.boxes.dropped += [name] * (wanted - len(info["instances"]))
        info["instances"] = self.checks.boxes(info["instances"], info["width"], info["height"], name)
        return info

    def COCOAPI(self, path: str) -> COCO:
        """Open the annotation file (mmdet calls the class attribute of this name) and check it."""
        file = open_coco(path, self.ann_file)
        self.mended = file.mended
        self._has_annotations = bool(file.api.anns)
        _warn(*file.notes, *file.mended)
        classes = list(self._metainfo["classes"])
        check_order(file.api, classes, self.ann_file)
        names = {i: category["name"] for i, category in file.api.cats.items()}
        used = {names.get(i, f"category id {i}") for i in file.api.catToImgs}
        check_known(used, classes, self.checks.unknown_classes, source=f"{self.ann_file}: ")
        if any(getattr(step, "with_mask", False) for step in _annotation_steps(self)):
            check_masks(file.api, self.ann_file)
        return file.api


def _annotation_steps(dataset: VOCDataset | CocoDataset) -> list[LoadAnnotations]:
    return [step for step in dataset.pipeline.transforms if isinstance(step, LoadAnnotations)]


def _warn(*sentences: str) -> None:
    for sentence in sentences:
        print_log(sentence, logger="current", level=logging.WARNING)


def _require(dataset: VOCDataset | CocoDataset, what: str, kind: str) -> None:
    """Look for the root first: where it is missing, the file within it is a detail."""
    if dataset.data_root:
        require_data(dataset.data_root, what)
    require_data(dataset.ann_file, f"the {kind} of {what}")


def _not_empty(data_list: list[dict], otherwise: str) -> list[dict]:
    if not data_list:
        raise UserError(f"{otherwise}: there is nothing to train or test on")
    return data_list
