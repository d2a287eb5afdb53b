"""Models of mmdet and mmpretrain behind the page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.images.pictures import as_picture
from rebnn_mm.workflows.inference import Inferencer
from rebnn_mm.workflows.page.looker import LEAST_SCORE, Found, Look, best_labels, name_of


class LibraryLooker:
    """A detector or classifier with its config, read and run as ``tools/infer.py`` does.

    Args:
        inferencer: The model with its test pipeline.
    """

    def __init__(self, inferencer: Inferencer) -> None:
        self.inferencer = inferencer
        self.kind = "detector" if inferencer.scope == "mmdet" else "classifier"
        self.names = tuple(inferencer.visualizer.dataset_meta.get("classes") or ())
        self.classes = len(self.names) or None

    def look(self, path: Path) -> Look:
        """As :class:`rebnn_mm.workflows.page.looker.Looker` says."""
        loaded = self.inferencer.reader.load(path)
        start = time.perf_counter()
        sample = self.inferencer.predict_loaded(loaded)
        found = self._boxes(sample) if self.kind == "detector" else self._labels(sample)
        milliseconds = (time.perf_counter() - start) * 1e3
        return Look(as_picture(loaded.image, self.inferencer.reader.order), found, milliseconds)

    def _boxes(self, sample: Any) -> tuple[Found, ...]:
        boxes = sample.pred_instances
        order = boxes.scores.argsort(descending=True)
        rows = zip(*(values[order].tolist() for values in (boxes.labels, boxes.scores, boxes.bboxes)), strict=True)
        return tuple(
            Found(name_of(label, self.names), score, tuple(box)) for label, score, box in rows if score >= LEAST_SCORE
        )

    def _labels(self, sample: Any) -> tuple[Found, ...]:
        scores = sample.get("pred_score")
        if scores is None:
            raise UserError("the model gives no scores of classes: the page shows classifiers and detectors")
        return best_labels(scores, self.names)
