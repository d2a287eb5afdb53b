"""GLUE's metrics, and prediction files as its server takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from rebnn_mm.bert.tasks import GlueTask, find_task
from rebnn_mm.files.atomic import write_text


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows, (N,), predicted right."""
    return float((predicted == labels).mean())


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1: ``2 TP / (2 TP + FP + FN)``; 0 without any true positive."""
    hits = int(((predicted == 1) & (labels == 1)).sum())
    wrong = int((predicted != labels).sum())  # of two classes: FP + FN
    return 2 * hits / (2 * hits + wrong) if hits else 0.0


def matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of two classes, which is Pearson's of their 0 and 1; 0 where either is constant."""
    return pearson(predicted, labels)


def pearson(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation, by scipy; 0 where it is not defined, because either is constant."""
    return _correlation("pearsonr", predicted, labels)


def spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation, ties sharing their mean rank, by scipy; 0 where either is constant."""
    return _correlation("spearmanr", predicted, labels)


METRIC_FUNCTIONS = dict(accuracy=accuracy, f1=f1, matthews=matthews, pearson=pearson, spearman=spearman)


@METRICS.register_module()
class GlueMetric(BaseMetric):
    """The task's metrics in percent, ``glue/accuracy`` and so on, and ``glue/score``, their mean.

    The task is the data set's. On a test split, which has no labels, it counts rows and is there for the file.

    Args:
        submission_dir: Write the predictions there, in GLUE's form: ``RTE.tsv`` with ``index`` and ``prediction``.
        collect_device, prefix: As for mmengine's ``BaseMetric``.
    """

    default_prefix = "glue"

    def __init__(
        self, submission_dir: str | None = None, collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.submission_dir = submission_dir

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep index, prediction and label of a batch."""
        self.results += [{key: sample[key] for key in ("index", "prediction", "label")} for sample in data_samples]

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Metrics of all rows; several processes may have padded them with repeated ones."""
        task, split = find_task(self.dataset_meta["task"]), self.dataset_meta["split"]
        rows = {row["index"]: row for row in results}
        predicted = np.array([rows[index]["prediction"] for index in sorted(rows)])
        if self.submission_dir is not None:
            write_submission(self.submission_dir, task, split, sorted(rows), predicted)
        labels = [rows[index]["label"] for index in sorted(rows)]
        if labels[0] is None:
            return dict(rows=float(len(rows)))
        return score(task, predicted, np.array(labels))


def score(task: GlueTask, predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's metrics in percent and ``score``, their mean, for (N,) predictions and labels."""
    values = {name: 100 * METRIC_FUNCTIONS[name](predicted, labels) for name in task.metrics}
    return {**values, "score": float(np.mean(list(values.values())))}


def write_submission(
    folder: str | Path, task: GlueTask, split: str, indices: Sequence[int], predicted: np.ndarray
) -> Path:
    """Write ``index`` and ``prediction`` as tab-separated lines, labels by their names, scores clipped to 0..5."""
    file = Path(folder) / task.submission(split)
    if task.is_regression:
        said = [f"{value:.3f}" for value in predicted.clip(0, 5)]
    else:
        said = [task.classes[int(value)] for value in predicted]
    lines = [f"{index}\t{value}\n" for index, value in zip(indices, said, strict=True)]
    write_text(file, "index\tprediction\n" + "".join(lines), make_folder=True)
    return file


def _correlation(name: str, predicted: np.ndarray, labels: np.ndarray) -> float:
    if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return 0.0
    from scipy import stats  # takes a second to import

    return float(getattr(stats, name)(predicted, labels).statistic)
