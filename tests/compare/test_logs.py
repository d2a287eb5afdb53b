"""mmengine's logs of several attempts, as one run."""

import json

import pytest

from rebnn_mm.compare.logs import read_scalars


def attempt(work_dir, stamp, *rows, tail=""):
    folder = work_dir / stamp / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


def train(step, **values):
    return dict(values, epoch=1, iter=step, step=step)


def test_a_resumed_run_replaces_what_it_repeated(tmp_path):
    attempt(tmp_path, "20260102_000000", train(20, loss=1.5, time=0.2), dict(acc=60.0, time=0.1, step=2))
    attempt(
        *(tmp_path, "20260101_000000", train(10, loss=3.0, time=0.1), dict(acc=50.0, time=0.1, step=1)),
        *(train(20, loss=2.0, time=9.0),),
        tail='{"loss": 1.',  # the process was killed while it wrote
    )
    scalars = read_scalars(tmp_path)
    assert scalars.curve("loss") == {10: 3.0, 20: 1.5}
    assert scalars.metric("acc") == {1: 50.0, 2: 60.0}
    assert scalars.metric_names() == ["acc"]
    assert scalars.seconds_per_iteration == pytest.approx(0.15)


def test_nothing_logged_is_empty(tmp_path):
    scalars = read_scalars(tmp_path / "nowhere")
    assert (scalars.train, scalars.val, scalars.seconds_per_iteration) == ({}, {}, None)


@pytest.mark.parametrize("damage", ["{", "[1]"])
def test_a_damaged_line_is_named(tmp_path, damage):
    attempt(tmp_path, "a", tail=f"{damage}\n" + json.dumps(train(1, loss=1.0)) + "\n")
    with pytest.raises(ValueError, match="scalars.json, line 1 is no JSON object"):
        read_scalars(tmp_path)
