"""Reading a spec, and refusing what cannot be run."""

import argparse
from pathlib import Path

import pytest
from mmengine.config import DictAction

from rebnn_mm.compare.record import RunRecord
from rebnn_mm.compare.spec import option_words, read_spec
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.build import read_config

ROOT = Path(__file__).resolve().parents[2]


def test_entries_become_runs(write_spec):
    spec = read_spec(write_spec())
    assert (spec.metric, spec.higher_is_better, spec.choose, spec.baseline) == ("acc", True, "last", "plain")
    assert [run.name for run in spec.runs] == ["plain/seed0", "gamma0/seed0", "plain/seed1", "gamma0/seed1"]
    run = spec.entries["gamma0"][1]
    assert run.words() == ["model.width=8", "custom_hooks.0.gamma=0.0", "randomness.seed=1"]
    cfg = run.resolved()
    assert cfg.custom_hooks == [dict(type="BalanceHook", magnitude="weight", gamma=0.0)]
    assert (cfg.randomness.seed, cfg.model.width, cfg.model.backbone.depth) == (1, 8, 18)


def test_own_options_and_seeds_win(write_spec):
    spec = read_spec(write_spec(("{'custom_hooks.0.gamma': 0.0}", "{'model.width': 4}, seeds=[7]")))
    assert [run.name for run in spec.entries["gamma0"]] == ["gamma0/seed7"]
    assert spec.entries["gamma0"][0].options == {"model.width": 4}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric = 'acc'", "", r"missing \['metric'\]"),
        ("metric = 'acc'", "metrik = 1\nmetric = 'acc'", r"unknown \['metrik'\]"),
        ("metric = 'acc'", "choose = 'first'\nmetric = 'acc'", "choose='first': 'last' or 'best'"),
        ("baseline = 'plain'", "baseline = 'x'", "baseline='x' is none of the entries plain, gamma0"),
        ("plain=dict(config='net.py')", "plain='net.py'", "entry 'plain' must be dict"),
        ("plain=dict(config='net.py')", "plain=dict()", r"entry 'plain': missing \['config'\]"),
        ("plain=dict(config='net.py')", "plain=dict(config='net.py', seed=1)", r"unknown \['seed'\]"),
        ("plain=dict(config='net.py')", "plain=dict(config='no.py')", "no.py is not a file .*relative to the spec"),
        ("plain=dict(", "**{'a/b': dict(config='net.py')}, plain=dict(", "'a/b': the name becomes a folder"),
        ("[0, 1]", "[0, 0]", "seeds=.*different whole numbers"),
        ("[0, 1]", "[]", "seeds=.*different whole numbers"),
        ("[0, 1]", "[True]", "seeds=.*different whole numbers"),
        ("{'model.width': 8}", "[1]", "must be a dict of dotted keys"),
        ("{'model.width': 8}", "{'randomness.seed': 8}", "comes from seeds"),
        ("{'model.width': 8}", "{'model': dict(width=8)}", "write a dict as dotted keys"),
        ("custom_hooks.0.gamma", "custom_hooks.1.gamma", "entry gamma0: --cfg-options custom_hooks.1.gamma=.*no place"),
        ("{'model.width': 8}", "{1: 8}", "must be a dict of dotted keys"),
        ("{'model.width': 8}", "{'train_cfg.max_epochs': 'one'}", "train_cfg.max_epochs='one': a whole number from 1"),
        ("{'model.width': 8}", "{'train_dataloader.batch_sz': 4}", "'batch_sz' is unknown; did you mean batch_size?"),
        ("config='net.py')", "config=3)", "entry 'plain': config=3 must be the path of a config"),
        ("plain=dict(config='net.py')", "plain=dict(config='net.py', **{'x': 1})", r"unknown \['x'\]"),
        ("plain=dict(", "**{'1': 3}, plain=dict(", "entry '1' must be dict"),
        ("baseline = 'plain'", "baseline = ['plain']", r"baseline=\['plain'\] is none of the entries"),
        ("metric = 'acc'", "metric = 3", "metric=3 must be a text"),
        ("metric = 'acc'", "higher_is_better = 'no'\nmetric = 'acc'", "higher_is_better='no' must be True or False"),
        ("metric = 'acc'", "metric = int('a')", "spec.py cannot be read: ValueError: invalid literal"),
        ("metric = 'acc'", "metric = (", "spec.py cannot be read"),
        ("plain=dict(", "plain=dict(after='x', ", "entry 'plain': after=x is none of the runs plain, gamma0, plain/"),
        ("plain=dict(", "plain=dict(after='gamma0/seed7', ", "after=gamma0/seed7 is none of the runs"),
        ("plain=dict(", "plain=dict(after=3, ", "after=3 must be the name of an entry or a run"),
        ("plain=dict(", "plain=dict(after='plain', ", "plain/seed0 cannot come after itself"),
        ("plain=dict(", "plain=dict(after='plain/seed1', ", "plain/seed1 cannot come after itself"),
        ("metric", "axis = 3\nmetric", r"axis must be dict\(label=..., lines="),
        ("metric", "axis = dict(lines={})\nmetric", r"axis: missing \['label'\]"),
        ("metric", "axis = dict(label='x', lines={}, scale='root')\nmetric", "scale='root': 'linear' or 'log'"),
        (
            "metric",
            "axis = dict(label='x', lines=dict(a=[(1, 'no')]))\nmetric",
            "no is none of the entries plain, gamma0",
        ),
        (
            "metric",
            "axis = dict(label='x', lines=dict(a=[1]))\nmetric",
            r"line 'a': \[\(NUMBER, ENTRY\), ...\] is needed",
        ),
        (
            "metric",
            "axis = dict(label='x', lines=dict(a=[]))\nmetric",
            r"\[\(NUMBER, ENTRY\), ...\] is needed, not \[\]",
        ),
        ("metric", "axis = dict(label='x', scale='log', lines=dict(a=[(0, 'plain')]))\nmetric", "must be above 0"),
    ],
)
def test_refusals(write_spec, old, new, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_spec(write_spec((old, new)))


def test_runs_that_wait_for_one_another_are_refused(write_spec):
    edits = ("plain=dict(", "plain=dict(after='gamma0/seed1', "), ("0.0}))", "0.0}, after=['plain']))")
    with pytest.raises(ValueError, match="after= makes plain/seed0, plain/seed1, gamma0/.* wait for one another"):
        read_spec(write_spec(*edits))


def test_an_entry_stands_for_all_its_runs(write_spec):
    spec = read_spec(write_spec(("0.0}))", "0.0}, after=['plain', 'plain/seed1']))")))
    assert {run.after for run in spec.entries["gamma0"]} == {("plain/seed0", "plain/seed1")}
    assert {run.after for run in spec.entries["plain"]} == {()}


def test_the_fingerprint_is_of_the_config_that_the_run_reads(write_spec, tmp_path):
    """A new data root reaches the paths that were made from the old one, in the run and so in the fingerprint."""
    path = write_spec(("'model.width': 8", f"'data_root': '{tmp_path}/new/', 'task': 'rte'"))
    parts = "data_root = 'old/'\ntask = 'cola'\ntrain_dataloader = dict(dataset=dict(ann_file='old/a', task=task))\n"
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text() + parts)
    run = read_spec(path).entries["plain"][0]
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    seen = read_config(run.config, parser.parse_args(["--cfg-options", *run.words()]).cfg_options)
    assert run.resolved().to_dict() == seen.to_dict()
    assert run.resolved().train_dataloader.dataset == dict(ann_file=f"{tmp_path}/new/a", task="rte")
    before = RunRecord.of(run).fingerprint
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text().replace("'old/a'", "'old/b'"))
    assert RunRecord.of(run).fingerprint != before


def test_out_is_the_folder_of_the_comparison_and_the_same_setting_in_all(write_spec, tmp_path):
    path = write_spec(("'model.width': 8", "'model.teacher': ['{out}/plain/seed0/latest.pth', 'other.pth']"))
    run = read_spec(path).entries["plain"][0]
    word = "model.teacher=[{}/plain/seed0/latest.pth,other.pth]"
    assert run.words(tmp_path / "there")[0] == word.format(tmp_path / "there")
    assert run.words()[0] == RunRecord.of(run).options[0] == word.format("work_dirs/compare/spec")
    assert run.resolved().model.teacher[0] == "work_dirs/compare/spec/plain/seed0/latest.pth"
    fixed = write_spec(("'model.width': 8", f"'model.teacher': {run.resolved().model.teacher}"))
    assert (
        read_spec(fixed).entries["plain"][0].resolved().to_dict() == run.resolved().to_dict()
    )  # how it was written before


def test_an_axis_is_sorted_by_its_numbers(write_spec):
    lines = "lines=dict(a=[(10, 'gamma0'), (1, 'plain')])"
    axis = read_spec(write_spec(("metric", f"axis = dict(label='x', scale='log', {lines})\nmetric"))).axis
    assert (axis.label, axis.scale, list(axis.lines["a"].items())) == ("x", "log", [(1, "plain"), (10, "gamma0")])
    assert read_spec(write_spec()).axis is None


def test_a_spec_and_a_config_that_are_not_utf8(write_spec, tmp_path):
    path = write_spec()
    text = path.read_text()
    path.write_bytes(f"# für\n{text}".encode("cp1252"))
    with pytest.raises(UserError, match="spec .*spec.py cannot be read: .*is not UTF-8.*byte 0xfc at 3.*save it as"):
        read_spec(path)
    path.write_text(text)
    (tmp_path / "net.py").write_bytes(b"# f\xfcr\n" + (tmp_path / "net.py").read_bytes())
    with pytest.raises(UserError, match="entry plain: config .*net.py cannot be read: .*is not UTF-8"):
        read_spec(path)


def test_absent_spec(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.py is not a file: see configs/compare/"):
        read_spec(tmp_path / "nowhere.py")


def test_option_words_come_back_as_they_were():
    options = {"a.b": 1, "a.0.c": 1e-5, "d": True, "e": None, "f": "x=y", "g": [1, (2.5, "u")], "h": [8, 16], "i": -1}
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    assert parser.parse_args(["--cfg-options", *option_words(options)]).cfg_options == options


@pytest.mark.parametrize("value", ["1", "None", "true", "a,b", "x y", {}, dict(x=1), object()])
def test_values_that_do_not_survive_the_command_line(value):
    with pytest.raises(ValueError, match="option key=.* cannot be given as --cfg-options"):
        option_words({"key": value})


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "compare").glob("*.py")), ids=lambda path: path.stem)
def test_shipped_specs_fit_their_configs(path):
    pytest.importorskip("mmpretrain")
    assert path.read_text().startswith(f"# python tools/compare.py configs/compare/{path.name}")
    for run, *_ in read_spec(path).entries.values():
        if any(key.startswith("custom_hooks.0.") for key in run.options):
            assert run.resolved().custom_hooks[0].type == "BalanceHook", run.name
