"""Tables, figures and the page, from work dirs written here."""

import json
import re

import numpy as np
import pytest

from rebnn_mm.analysis.report import format_summary, write_report
from rebnn_mm.analysis.runs import read_runs, summarize
from rebnn_mm.files.oscillation import BINS, COLUMNS, FILE_NAME, Header, OscillationWriter

pytest.importorskip("matplotlib")


def run(work_dir, layers=3, records=30, seed=0, interval=5):
    """A work dir as a training leaves it; gamma is 0 throughout, alpha is not recorded."""
    rng = np.random.default_rng(seed)
    names = tuple(f"backbone.layer{index}.unit.conv" for index in range(layers))
    header = Header(names, (90,) * layers, (10,) * layers, interval, 3, 0.1, 50)
    writer = OscillationWriter(work_dir / FILE_NAME, header)
    for what in range(layers + 1):
        writer.histogram(0, what, 0.4, rng.integers(0, 2, BINS))
    for record in range(1, records + 1):
        values = rng.random((layers, len(COLUMNS)), np.float32) / record
        values[:, list(COLUMNS).index("gamma_mean")] = 0
        values[:, list(COLUMNS).index("alpha_mean")] = np.nan
        writer.record(interval * record, values)
    for what in range(layers + 1):
        writer.histogram(interval * records, what, 0.5, rng.integers(0, 2, BINS))
    logged = [dict(loss=1.0, epoch=1, iter=20, step=20), {"accuracy/top1": 40.0 + seed, "step": 1}]
    logged += [{"accuracy/top1": 39.0, "step": 2}]
    log = work_dir / "20260101_000000" / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(line) + "\n" for line in logged))
    return work_dir


def test_wrong_folders_get_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="given twice"):
        read_runs([run(tmp_path / "a"), tmp_path / "b" / ".." / "a"])
    with pytest.raises(ValueError, match="holds no record yet: the first comes after 5 updates"):
        read_runs([run(tmp_path / "empty", records=0)])


def test_runs_are_named_by_the_shortest_distinct_ends(tmp_path):
    runs = read_runs([run(tmp_path / "a" / "seed0"), run(tmp_path / "b" / "seed0")])
    assert [one.name for one in runs] == ["a/seed0", "b/seed0"]
    assert read_runs([tmp_path / "a" / "seed0"])[0].name == "seed0"


def test_summary_is_the_last_tenth(tmp_path):
    (one,) = read_runs([run(tmp_path / "a")])
    summary = summarize(one)
    flips = one.record.values["flip_share"][-3:].mean()
    assert summary.flip_share == pytest.approx(flips)
    assert summary.returning == pytest.approx(one.record.values["flip_back_share"][-3:].mean() / flips)
    assert (summary.metric, summary.last, summary.best, summary.iterations) == ("accuracy/top1", 39, 40, 150)
    head, row = format_summary([summary]).splitlines()
    assert len(head) == len(row) and head.startswith("run") and row.startswith("a ")


@pytest.mark.slow
@pytest.mark.parametrize("image_format", ["png", "svg"])
def test_page_is_whole_and_asks_for_nothing_else(tmp_path, image_format):
    import matplotlib

    before = dict(matplotlib.rcParams)
    runs = read_runs([run(tmp_path / "a<b>"), run(tmp_path / "c", layers=20, seed=1, records=900, interval=7)])
    page, *images = write_report(runs, tmp_path / "out", image_format)
    text = page.read_text()
    assert len(images) == 9 and all(image.stat().st_size > 3000 for image in images)
    assert text.count("<img ") == 9 and not re.search(r'(src|href)="(?!data:)', text)
    assert "a&lt;b&gt;" in text and "<b>" not in text
    assert "flips are not comparable" in text
    assert dict(matplotlib.rcParams) == before


def test_a_single_short_run_is_drawn(tmp_path):
    assert len(write_report(read_runs([run(tmp_path / "a", layers=1, records=1)]), tmp_path / "out")) == 10


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"image_format='gif' is not one of \('png', 'svg'\)"):
        write_report([], tmp_path, "gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tool_prints_the_table_and_refuses_with_a_sentence(tool, tmp_path, capsys):
    work_dir = run(tmp_path / "a")
    tool("analyze")(work_dir)
    out = capsys.readouterr().out
    assert "flips back" in out and f"9 figures; open {work_dir}/analysis/index.html" in out
    record = work_dir / FILE_NAME
    record.write_bytes(record.read_bytes()[:-900] + b"\0" * 900)
    for argv, message in (
        ([work_dir], "analyze: .*oscillation.bin is damaged at byte"),
        ([tmp_path / "nowhere"], "analyze: .*nowhere does not exist: give a work dir"),
        ([tmp_path], "analyze: .* has no oscillation.bin: train with"),
    ):
        with pytest.raises(SystemExit, match=message):
            tool("analyze")(*argv)
