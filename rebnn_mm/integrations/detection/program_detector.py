"""A one-stage detector whose backbone, neck and head are one function of images; mmdet decodes its maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn


class ProgramDetector(BaseDetector):
    """Predicts, and does nothing else.

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

    def loss(self, batch_inputs: Tensor, batch_data_samples: Any) -> Any:
        """A program cannot be trained."""
        raise NotImplementedError("a program cannot be trained")

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Any = None) -> Any:
        return self.extract_feat(batch_inputs)
