"""The table against numbers by hand, and the figures."""

import json

import pytest

from rebnn_mm.compare import read_spec, run_all, write_report


@pytest.fixture
def report(write_spec, train, tmp_path):
    def make(*edits):
        spec = read_spec(write_spec(*edits))
        run_all(spec, tmp_path / "out", train, jobs=2, say=lambda line: None)
        return write_report(spec, tmp_path / "out")

    return make


def row(text, name):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table(report, tmp_path):
    text = report()
    # values 2 and 12: mean 7, std sqrt(50), interval 7 -+ 12.706 * 5
    assert row(text, "plain") == ["plain", "2", "7", "7.1", "-56.53 to 70.53", "-", "-", "100", "0.005", "-"]
    assert row(text, "gamma0")[1:7] == ["2", "12", "7.1", "-51.53 to 75.53", "+5 +- 0", "+5 to +5"]
    assert "no spread" not in text and "Without a result" not in text
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["entries"]["plain"]["values"] == {"0": 2, "1": 12}
    assert found["differences"]["plain - gamma0"]["mean"] == -5
    assert (tmp_path / "out" / "results.md").read_text() == text
    for name in ("metric", "metric_course", "flip_share_course"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 3000 and f"({name}.png)" in text


def test_one_validation_is_drawn_as_no_course(report, tmp_path):
    assert "metric_course" not in report(("{'model.width': 8}", "{'mode': 'short', 'train_cfg.max_epochs': 1}"))
    assert (tmp_path / "out" / "metric.png").is_file() and not (tmp_path / "out" / "metric_course.png").exists()


def test_an_axis_is_drawn(report, tmp_path):
    axis = "axis = dict(label='gamma', lines=dict(ReBNN=[(0, 'gamma0'), (1, 'plain')]))"
    assert "(metric_axis.png)" in report(("metric = 'acc'", f"metric = 'acc'\n{axis}"))
    assert (tmp_path / "out" / "metric_axis.png").stat().st_size > 3000


def test_one_seed_claims_no_spread(report):
    text = report(("[0, 1]", "[3]"))
    assert row(text, "plain")[2:5] == ["32", "-", "-"]
    assert row(text, "gamma0")[5:7] == ["+5 (one seed)", "-"]
    assert "An entry with one seed has no spread" in text


def test_no_common_seed_gives_no_difference(report):
    text = report(("0.0}", "0.0}, seeds=[2, 3]"))
    assert row(text, "gamma0")[5:7] == ["-", "-"]


def test_best_of_a_lower_is_better_metric(report):
    text = report(("metric = 'acc'", "metric = 'acc'\nhigher_is_better = False\nchoose = 'best'"))
    assert row(text, "plain")[2] == "6"  # after the first epoch: 1 and 11
    assert "an optimistic choice; lower is better" in text


def test_nothing_finished(write_spec, tmp_path):
    with pytest.raises(ValueError, match="has no finished run of .*spec.py yet"):
        write_report(read_spec(write_spec()), tmp_path / "out")
