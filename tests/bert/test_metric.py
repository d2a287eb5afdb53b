"""Metrics against cases computed by hand, and files as GLUE's server takes them."""

import math

import numpy as np
import pytest

from rebnn_mm.bert import TASKS, GlueMetric
from rebnn_mm.bert.metric import accuracy, f1, matthews, pearson, score, spearman

# 3 true positives, 1 false negative, 2 false positives, 4 true negatives
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
PREDICTED = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])


def test_classification_by_hand():
    assert accuracy(PREDICTED, LABELS) == 0.7
    assert f1(PREDICTED, LABELS) == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert matthews(PREDICTED, LABELS) == pytest.approx((3 * 4 - 2 * 1) / math.sqrt(5 * 4 * 6 * 5))
    assert matthews(1 - LABELS, LABELS) == pytest.approx(-1)


def test_where_a_ratio_is_not_defined_it_is_zero():
    zeros = np.zeros(10, int)
    assert f1(zeros, LABELS) == 0 and matthews(zeros, LABELS) == 0
    assert f1(zeros, zeros) == 0
    assert pearson(np.full(3, 1.5), np.array([1.0, 2, 3])) == 0 == spearman(np.array([1.0, 2, 3]), np.full(3, 2.0))


def test_correlations_by_hand():
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 10])
    # deviations -1.5 -0.5 0.5 1.5 and -3 -1 -2 6: products 4.5 + 0.5 - 1 + 9, squares 5 and 50
    assert pearson(x, y) == pytest.approx(13 / math.sqrt(5 * 50))
    # ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * 2 / (4 * 15)
    assert spearman(x, y) == pytest.approx(0.8)
    # ties share their mean rank: 1 2.5 2.5 4 against 1 2 3 4, deviations' products 2.25 + 0 + 0 + 2.25
    assert spearman(np.array([1.0, 2, 2, 3]), x) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_score_is_the_mean_in_percent():
    values = score(TASKS["mrpc"], PREDICTED, LABELS)
    assert values["score"] == pytest.approx((70 + 200 / 3) / 2) and list(values) == ["accuracy", "f1", "score"]
    assert {name: task.metrics for name, task in TASKS.items() if task.metrics != ("accuracy",)} == dict(
        cola=("matthews",), mrpc=("accuracy", "f1"), stsb=("pearson", "spearman"), qqp=("accuracy", "f1")
    )


def evaluate(metric, task, split, rows, size=None):
    metric.dataset_meta = dict(task=task, split=split)
    metric.process(None, [dict(zip(("index", "prediction", "label"), row, strict=True)) for row in rows])
    return metric.evaluate(size or len(rows))


def test_rows_in_any_order_and_repeated_ones_count_once():
    rows = [(2, 1, 1), (0, 0, 1), (1, 0, 0), (0, 0, 1)]
    assert evaluate(GlueMetric(), "rte", "dev", rows)["glue/accuracy"] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("task", "split", "rows", "file", "text"),
    [
        ("rte", "test", [(1, 0, None), (0, 1, None)], "RTE.tsv", "0\tnot_entailment\n1\tentailment\n"),
        ("mnli", "test_mismatched", [(0, 2, None)], "MNLI-mm.tsv", "0\tneutral\n"),
        ("mnli", "test_matched", [(0, 0, None)], "MNLI-m.tsv", "0\tcontradiction\n"),
        ("stsb", "test", [(0, 5.3, None), (1, 1.23456, None)], "STS-B.tsv", "0\t5.000\n1\t1.235\n"),
        ("cola", "test", [(0, 1, None)], "CoLA.tsv", "0\t1\n"),
    ],
)
def test_submission(task, split, rows, file, text, tmp_path):
    metrics = evaluate(GlueMetric(submission_dir=str(tmp_path / "s")), task, split, rows)
    assert metrics == {"glue/rows": len(rows)}
    assert (tmp_path / "s" / file).read_text() == "index\tprediction\n" + text
