"""GLUE's table, and the best checkpoint of a run."""

import pytest

pytest.importorskip("transformers")

from rebnn_mm.workflows.glue import best_checkpoint, format_glue


def test_table():
    results = dict(
        wnli=dict(dev=dict(accuracy=56.0, score=56.0)),
        mrpc=dict(dev=dict(accuracy=70.0, f1=80.0, score=75.0)),
        mnli=dict(
            dev_matched=dict(accuracy=60.0, score=60.0),
            dev_mismatched=dict(accuracy=62.0, score=62.0),
        ),
    )
    lines = format_glue(results).splitlines()
    assert lines[2].split() == ["mrpc", "75.00", "accuracy", "70.00,", "f1", "80.00"]
    assert lines[3].startswith("mnli     61.00  matched: accuracy 60.00; mismatched: accuracy 62.00")
    assert lines[4].startswith("wnli     56.00")
    assert lines[5].startswith("mean     68.00  of 2 tasks")
    assert "mean" not in format_glue(dict(wnli=results["wnli"]))


def test_best_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="train first"):
        best_checkpoint(tmp_path)
    (tmp_path / "best_glue_score_epoch_3.pth").touch()
    assert best_checkpoint(tmp_path).name == "best_glue_score_epoch_3.pth"
