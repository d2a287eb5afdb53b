"""mmengine's logs of several attempts, as one run."""

import json

import pytest

from rebnn_mm.analysis.scalars import read_scalars


def log(work_dir, stamp, *lines, tail=""):
    path = work_dir / stamp / "vis_data" / "scalars.json"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)


def train(step, loss, **more):
    return dict(lr=0.1, loss=loss, epoch=1 + step // 100, iter=step, step=step, **more)


def test_training_validation_and_the_records_scalars_are_told_apart(tmp_path):
    metrics = [{"acc": 40.0, "time": 0.3, "data_time": 0.1, "step": 1}, {"acc": 39.0, "step": 2}]
    log(tmp_path, "a", train(20, 1.0), {"oscillation/flip_share": 0.1, "step": 25}, *metrics)
    scalars = read_scalars(tmp_path)
    assert set(scalars.train) == {"lr", "loss"} and set(scalars.metrics) == {"acc"}
    assert (scalars.metric_unit, scalars.metric("acc")) == ("epoch", {1: 40.0, 2: 39.0})
    assert scalars.course("loss") == {20: 1.0} and scalars.metrics["acc"].step.tolist() == [1, 2]
    assert scalars.course("x") == scalars.metric("x") == {}


def test_what_a_resumed_run_did_again_counts_once(tmp_path):
    log(tmp_path, "20260102_000000", train(60, 1.0, time=0.2), dict(acc=0.2, step=2))
    log(
        *(tmp_path, "20260101_000000", train(20, 3.0, time=0.1), dict(acc=0.1, step=1), train(40, 2.0, time=0.3)),
        *(train(60, 9.0, time=9.0), dict(acc=0.9, step=2), train(80, 9.0, time=9.0)),
        tail='{"loss": 0.',  # the process was killed while it wrote
    )
    scalars = read_scalars(tmp_path)
    assert scalars.course("loss") == {20: 3.0, 40: 2.0, 60: 1.0}  # 80 was of the attempt that was given up
    assert scalars.metric("acc") == {1: 0.1, 2: 0.2}
    assert scalars.seconds_per_iteration == pytest.approx(0.2)


def test_iteration_based_runs_validate_over_iterations(tmp_path):
    log(tmp_path, "a", dict(loss=1.0, iter=20, step=20), dict(mAP=0.1, step=20))
    scalars = read_scalars(tmp_path)
    assert (scalars.metric_unit, scalars.seconds_per_iteration) == ("iteration", None)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("{broken\n{}\n", "scalars.json is damaged in line 1: it is no JSON"),
        ("[1]\n{}\n", "is no log of mmengine: line 1 has no step"),
        ('{"loss": 1.0}\n', "is no log of mmengine: line 1 has no step"),
    ],
)
def test_a_damaged_log_gets_a_sentence(tmp_path, tail, message):
    log(tmp_path, "a", tail=tail)
    with pytest.raises(ValueError, match=message):
        read_scalars(tmp_path)


def test_a_folder_without_a_log_gets_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_scalars(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no TIMESTAMP/vis_data/scalars.json"):
        read_scalars(tmp_path)
