"""mmdet's VOC and COCO metrics: the data set's own names, and files that are checked before training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from mmdet.evaluation import CocoMetric, VOCMetric, eval_map
from mmdet.registry import METRICS
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger, print_log

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.detection.coco_file import check_masks, check_order, open_coco
from rebnn_mm.integrations.images.loading import require_data


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


@METRICS.register_module()
class CheckedCocoMetric(CocoMetric):
    """mmdet's CocoMetric with its annotation file checked when it is built, which is before training.

    What can only mean one thing is mended in memory and said: annotations without ``iscrowd`` or ``area``, ids from
    0, which pycocotools takes for "no match", unused categories that repeat a name.

    Args:
        ann_file: Annotation file of the evaluated images; None takes their boxes from the data set.
        sort_categories: As in CocoMetric.
        kwargs: As for mmdet's CocoMetric.

    Raises:
        FileNotFoundError: No such annotation file.
        ValueError: It cannot be evaluated against, or has other classes than the data set.
    """

    def __init__(self, ann_file: str | None = None, sort_categories: bool = False, **kwargs: Any) -> None:
        super().__init__(ann_file=None, **kwargs)
        self.ann_file = ann_file
        if ann_file is None:
            return
        require_data(ann_file, "the annotation file of the COCO metric")
        with get_local_path(ann_file, backend_args=self.backend_args) as path:
            file = open_coco(path, ann_file)
        for sentence in file.mended:
            print_log(f"CheckedCocoMetric: {sentence}", logger="current")
        api = file.api
        if sort_categories:
            api.dataset["categories"].sort(key=lambda category: category["id"])
            api.createIndex()
        if "segm" in self.metrics:
            check_masks(api, ann_file)
        if not self.format_only and not any(not a["iscrowd"] for a in api.dataset["annotations"]):
            raise UserError(f"{ann_file} has no box to evaluate: every detection would be wrong")
        self._coco_api = api

    @property
    def dataset_meta(self) -> dict | None:
        """What mmengine hands over from the data set before the loop starts."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        if self._coco_api is not None and meta.get("classes"):
            check_order(self._coco_api, meta["classes"], str(self.ann_file))
        self._dataset_meta = meta

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """As mmdet; images that the annotation file does not have are refused."""
        if self._coco_api is not None:
            unknown = [sample["img_id"] for sample in data_samples if sample["img_id"] not in self._coco_api.imgs]
            if unknown:
                raise UserError(
                    f"{self.ann_file} has no image {unknown[0]!r}, which was tested: set the evaluator's ann_file to "
                    "the data set's"
                )
        super().process(data_batch, data_samples)
