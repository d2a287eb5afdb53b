"""Detectors whose layers are functions of images and of regions; mmdet does what stands between and behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn


class _Program(BaseDetector):
    """A detector that predicts, and does nothing else."""

    def loss(self, batch_inputs: Tensor, batch_data_samples: Any) -> Any:
        """A program cannot be trained."""
        raise NotImplementedError("a program cannot be trained")

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Any = None) -> Any:
        return self.extract_feat(batch_inputs)


class ProgramDetector(_Program):
    """A one-stage detector.

    Args:
        maps: (N, C, H, W) -> scores of all levels, boxes of all levels, and of some heads a third kind, flat.
        head: Of the same model; its weights are not used.
        data_preprocessor: Images -> what ``maps`` takes.
    """

    def __init__(self, maps: Callable[[Tensor], Any], head: Any, data_preprocessor: nn.Module) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.maps, self.bbox_head = maps, head

    def extract_feat(self, batch_inputs: Tensor) -> tuple[list[Tensor], ...]:
        """The maps, one list for each kind."""
        flat, levels = self.maps(batch_inputs), len(self.bbox_head.prior_generator.strides)
        return tuple(list(flat[at : at + levels]) for at in range(0, len(flat), levels))

    def predict(self, batch_inputs: Tensor, batch_data_samples: Any, rescale: bool = True) -> Any:
        """The samples with ``pred_instances``."""
        metas = [sample.metainfo for sample in batch_data_samples]
        found = self.bbox_head.predict_by_feat(*self.extract_feat(batch_inputs), batch_img_metas=metas, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, found)


class ProgramTwoStageDetector(_Program):
    """A two-stage detector.

    Args:
        maps: (N, C, H, W) -> scores of all levels, deltas of all levels, levels that regions are read from, flat.
        rois: (K, C, h, w) -> (scores, deltas).
        model: mmdet's, for what its heads do with these; its weights are not used.
    """

    def __init__(self, maps: Callable[[Tensor], Any], rois: Callable[[Tensor], Any], model: Any) -> None:
        super().__init__(data_preprocessor=model.data_preprocessor)
        self.maps, self.rois = maps, rois
        self.rpn_head, self.bbox_head, self.test_cfg = model.rpn_head, model.roi_head.bbox_head, model.roi_head.test_cfg
        self.extractor = model.roi_head.bbox_roi_extractor

    def extract_feat(self, batch_inputs: Tensor) -> tuple[list[Tensor], ...]:
        """Scores, deltas and levels."""
        flat, levels = self.maps(batch_inputs), len(self.rpn_head.prior_generator.strides)
        # mmcv's RoIAlign reads memory as contiguous, whatever its strides say, and programs give images channels last
        read_from = [level.contiguous() for level in flat[2 * levels :]]
        return list(flat[:levels]), list(flat[levels : 2 * levels]), read_from

    def predict(self, batch_inputs: Tensor, batch_data_samples: Any, rescale: bool = True) -> Any:
        """The samples with ``pred_instances``."""
        metas = [sample.metainfo for sample in batch_data_samples]
        scores, deltas, levels = self.extract_feat(batch_inputs)
        proposed = self.rpn_head.predict_by_feat(scores, deltas, batch_img_metas=metas, rescale=False)
        found = []
        for index, (boxes, meta) in enumerate(zip(proposed, metas, strict=True)):
            rois = torch.cat([boxes.bboxes.new_zeros(len(boxes), 1), boxes.bboxes], 1)
            pooled = self.extractor([level[index : index + 1] for level in levels], rois)
            results = self.rois(pooled) if len(rois) else self._none(pooled)
            found += self.bbox_head.predict_by_feat(
                (rois,), *((result,) for result in results), [meta], self.test_cfg, rescale
            )
        return self.add_pred_to_datasample(batch_data_samples, found)

    def _none(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        head = self.bbox_head
        return regions.new_zeros(0, head.num_classes + 1), regions.new_zeros(0, 4)
