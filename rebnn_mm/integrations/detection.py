"""mmdet's VOC and COCO data sets and VOC metric, made to refuse or report bad annotations."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ET
from collections import OrderedDict
from typing import Any

from mmdet.datasets import CocoDataset, VOCDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import VOCMetric, eval_map
from mmdet.registry import DATASETS, METRICS
from mmengine.logging import MMLogger, print_log

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.integrations.data import require_data

_UNKNOWN = ("error", "ignore")


class _BoxCheck:
    """Clips boxes to their image, drops those with no area left, and reports once what it did."""

    def __init__(self) -> None:
        self.dropped: list[str] = []
        self.clipped: list[str] = []

    def __call__(self, instances: list[dict], width: int, height: int, source: str) -> list[dict]:
        """The instances to keep; boxes are (x1, y1, x2, y2) in pixels of a ``width`` x ``height`` image."""
        kept = []
        for instance in instances:
            x1, y1, x2, y2 = box = instance["bbox"]
            clipped = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
            if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
                self.dropped.append(source)
                continue
            # One pixel is rounding, or VOC's count from one read as a count from zero: clipped, not reported.
            if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > 1:
                self.clipped.append(source)
            kept.append({**instance, "bbox": clipped})
        return kept

    def report(self, ann_file: str) -> None:
        """Log one warning for each kind, with the first files."""
        kinds = (
            (self.dropped, "without area (width or height <= 0, or outside the image) dropped"),
            (self.clipped, "reaching out of the image clipped to it"),
        )
        for sources, action in kinds:
            if sources:
                names = list(dict.fromkeys(sources))
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                print_log(
                    f"{ann_file}: {len(sources)} box(es) {action}: {', '.join(names[:3])}{more}",
                    logger="current",
                    level=logging.WARNING,
                )


@DATASETS.register_module()
class CheckedVOCDataset(VOCDataset):
    """mmdet's VOCDataset with annotations checked while they are read.

    Boxes without area are dropped and boxes reaching out of the image clipped, both with one warning.

    Args:
        unknown_classes: ``'error'``, or ``'ignore'`` to skip objects of classes that ``metainfo`` does not have.
        kwargs: As mmdet's VOCDataset.

    Raises:
        FileNotFoundError: The data set, its split or an annotation is missing.
        ValueError: An unknown class, an unreadable annotation or an empty split.
    """

    def __init__(self, unknown_classes: str = "error", **kwargs: Any) -> None:
        self.unknown_classes = _one_of_unknown(unknown_classes)
        self._check_boxes = _BoxCheck()
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry for each image of the split."""
        _require(self, "the VOC data set", "split list")
        data_list = super().load_data_list()
        self._check_boxes.report(self.ann_file)
        return _not_empty(data_list, f"{self.ann_file} lists no image")

    def filter_data(self) -> list[dict]:
        """As mmdet, but never down to nothing."""
        return _not_empty(super().filter_data(), f"filter_cfg={self.filter_cfg} leaves no image of {self.ann_file}")

    def parse_data_info(self, img_info: dict) -> dict:
        """Read one XML file."""
        xml = img_info["xml_path"]
        try:
            info = super().parse_data_info(img_info)
        except FileNotFoundError as error:
            raise MissingFileError(
                f"{error.filename or xml} does not exist, but {self.ann_file} lists {img_info['img_id']!r}"
            ) from error
        except (ET.ParseError, ValueError) as error:
            raise UserError(f"{xml} is no usable VOC annotation: {error}") from error
        except (AttributeError, TypeError) as error:  # what find(...).text gives where a tag is missing or empty
            raise UserError(
                f"{xml} is no usable VOC annotation: one of size/width, size/height, object/name and "
                "object/bndbox/xmin, ymin, xmax, ymax is missing or empty"
            ) from error
        width, height = info["width"], info["height"]
        if width <= 0 or height <= 0:
            raise UserError(f"{xml} is no usable VOC annotation: its image size is {width} x {height}")
        info["instances"] = self._check_boxes(info["instances"], width, height, xml)
        return info

    def _parse_instance_info(self, raw_ann_info: ET.ElementTree, minus_one: bool = True) -> list[dict]:
        classes = self._metainfo["classes"]
        names = {str(obj.find("name").text) for obj in raw_ann_info.findall("object")}
        _check_classes(names, classes, self.unknown_classes)
        return super()._parse_instance_info(raw_ann_info, minus_one)


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """mmdet's CocoDataset with the annotation file checked while it is read.

    Boxes without area are dropped and boxes reaching out of the image clipped, both with one warning.

    Args:
        unknown_classes: ``'error'``, or ``'ignore'`` to skip categories that ``metainfo`` does not have.
        kwargs: As mmdet's CocoDataset.

    Raises:
        FileNotFoundError: The data set or its annotation file is missing.
        ValueError: Categories that do not fit ``metainfo``, an unreadable or empty annotation file.
    """

    def __init__(self, unknown_classes: str = "error", **kwargs: Any) -> None:
        self.unknown_classes = _one_of_unknown(unknown_classes)
        self._check_boxes = _BoxCheck()
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry for each image of the annotation file."""
        _require(self, "the COCO data set", "annotation file")
        data_list = super().load_data_list()
        self._check_boxes.report(self.ann_file)
        return _not_empty(data_list, f"{self.ann_file} lists no image")

    def filter_data(self) -> list[dict]:
        """As mmdet, but never down to nothing."""
        return _not_empty(super().filter_data(), f"filter_cfg={self.filter_cfg} leaves no image of {self.ann_file}")

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
        self._check_boxes.dropped += [name] * (wanted - len(info["instances"]))
        info["instances"] = self._check_boxes(info["instances"], info["width"], info["height"], name)
        return info

    def COCOAPI(self, path: str) -> COCO:
        """Open the annotation file (mmdet calls the class attribute of this name) and check its categories."""
        try:
            coco = COCO(path)
            names = [category["name"] for category in coco.dataset.get("categories", [])]
        except (ValueError, KeyError, AssertionError) as error:
            raise UserError(f"{self.ann_file} is no usable COCO annotation file: {error!r}") from error
        classes = list(self._metainfo["classes"])
        absent = [name for name in classes if name not in names]
        if absent:
            raise UserError(f"{self.ann_file} lacks the classes {absent} of metainfo; its categories are {names}")
        used = {coco.cats[i]["name"] if i in coco.cats else f"category id {i}" for i in coco.catToImgs}
        _check_classes(used, classes, self.unknown_classes, source=f"{self.ann_file}: ")
        ordered = [name for name in names if name in classes]
        if ordered != classes:  # mmdet numbers labels by the file's order, and would show the wrong names
            raise UserError(f"{self.ann_file} orders its categories {ordered}: write metainfo.classes in that order")
        return coco


@METRICS.register_module()
class CheckedVOCMetric(VOCMetric):
    """mmdet's VOCMetric with the data set's own class names, and each class's AP among the results.

    The AP of a class is ``AP50_<class>``, in [0, 1]; classes without ground truth have none. ``eval_mode`` is what
    is computed, whatever the path of the data set.
    """

    def compute_metrics(self, results: list) -> dict:
        """``mAP``, and for each IoU threshold ``AP<thr>`` and ``AP<thr>_<class>``; or mmdet's recalls."""
        if self.metric != "mAP":
            return super().compute_metrics(results)
        if self.scale_ranges is not None:
            raise UserError(f"CheckedVOCMetric: scale_ranges={self.scale_ranges!r} must be None for metric='mAP'")
        classes = list(self.dataset_meta["classes"])
        annotations, detections = zip(*results, strict=True)
        means: dict[str, float] = {}
        per_class: dict[str, float] = {}
        for iou_thr in self.iou_thrs:
            mean, rows = eval_map(
                detections,
                annotations,
                iou_thr=iou_thr,
                dataset=classes,  # stock passes 'voc' for VOC paths, and prints VOC's names
                logger=MMLogger.get_current_instance(),
                eval_mode=self.eval_mode,
                use_legacy_coordinate=True,  # as the official VOC kit: w = x2 - x1 + 1
            )
            key = f"AP{round(iou_thr * 100):02d}"
            means[key] = float(mean)
            per_class |= {
                f"{key}_{name}": float(row["ap"]) for name, row in zip(classes, rows, strict=True) if row["num_gts"] > 0
            }
        return OrderedDict(mAP=sum(means.values()) / len(means), **means, **per_class)


def _one_of_unknown(value: str) -> str:
    if value not in _UNKNOWN:
        raise UserError(f"unknown_classes={value!r} is not one of {_UNKNOWN}")
    return value


def _check_classes(
    names: set[str], classes: list[str] | tuple[str, ...], unknown_classes: str, source: str = ""
) -> None:
    unknown = sorted(name for name in names if name not in classes)
    if unknown and unknown_classes == "error":
        raise UserError(
            f"{source}unknown class {', '.join(map(repr, unknown))}; metainfo has {list(classes)} "
            "(add it, or set the data set's unknown_classes='ignore')"
        )


def _require(dataset: CheckedVOCDataset | CheckedCocoDataset, what: str, kind: str) -> None:
    """Look for the root first: where it is missing, the file within it is a detail."""
    if dataset.data_root:
        require_data(dataset.data_root, what)
    require_data(dataset.ann_file, f"the {kind} of {what}")


def _not_empty(data_list: list[dict], otherwise: str) -> list[dict]:
    if not data_list:
        raise UserError(f"{otherwise}: there is nothing to train or test on")
    return data_list
