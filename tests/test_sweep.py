"""benchmarks/sweep.py: which configs it takes, how it reads failures, and its page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts import one another as they do when they are run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def lines(*stages, folder="net"):
    start = dict(folder=folder, stage="start", commit="abc", timed=False)
    good = dict(
        build=dict(config="net_small", stock_training=None),
        binarize=dict(layers=2, weights=0.9, bytes_stock=4e6),
        train=dict(loss=1.0, frozen=[], idle_in_stock=[], idle=[], one_sided=[]),
        forward=dict(finite=True),
        export=dict(difference=None, bytes_packed=2e5, rounding=0.0, graphs=["all"], layerwise={}),
        operations=dict(operations=0.8, at=224),
        end=dict(seconds=1.0),
    )
    found = {name: dict(folder=folder, stage=name, ok=True, **values) for name, values in good.items()}
    for stage, values in stages:
        found[stage].update(values)
    return [start, *found.values()]


def written(tmp_path, *groups):
    path = tmp_path / "mmdet.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for group in groups for line in group))
    return path


def test_a_run_that_got_through_is_done_and_a_new_run_replaces_an_old_one(tmp_path):
    from sweep_rows import results, verdict

    failed = ("train", dict(ok=False, kind="our fault", error="ValueError: 4D"))
    path = written(tmp_path, lines(failed), lines())
    assert verdict(results(path)["net"]) == ("done", "")
    path = written(tmp_path, lines(), lines(failed))
    assert verdict(results(path)["net"]) == ("our fault", "train: ValueError: 4D")


@pytest.mark.parametrize(
    ("stage", "values", "reason"),
    [
        ("train", dict(idle=["a.conv"]), "without a gradient, as a.conv"),
        ("export", dict(difference="input 0, by up to 1e-6"), "packed differs, input 0"),
        ("end", dict(killed="Segmentation fault (exit status -11)"), "Segmentation fault"),
    ],
)
def test_what_ran_to_the_end_may_still_be_our_fault(tmp_path, stage, values, reason):
    from sweep_rows import results, verdict

    kind, found = verdict(results(written(tmp_path, lines((stage, values))))["net"])
    assert kind == "our fault"
    assert reason in found


def test_the_page_counts_and_lists_every_model(tmp_path):
    import sweep_page

    failed = ("export", dict(ok=False, kind="our fault", error="RuntimeError: a | b"))
    path = written(tmp_path, lines(), lines(failed, folder="other"))
    sweep_page.write(tmp_path / "page.md", {"mmdet": path})
    page = (tmp_path / "page.md").read_text()
    assert "- 1 of 2: done" in page
    assert "| net<br><sub>net_small</sub> | 90% | 80% | 4.0 | 0.2 |  |  |  | exact | graph |  | abc |  |" in page
    assert "### Our fault" in page
    assert "| `other` | our fault | export: RuntimeError: a / b | abc |" in page
    assert "- commits: abc (2)" in page


def test_the_page_says_how_models_are_stored_how_equal_they_are_and_why_others_do_not_run(tmp_path):
    import sweep_page

    neck = dict(graphs=["backbone"], layerwise={"neck": "Neck has attention"}, rounding=2e-6)
    whole = dict(graphs=[], layerwise={"all": "it calls aten.x; pack it with its own code: load_model(path)"})
    offline = ("build", dict(ok=False, kind="needs a network", error="URLError: a | b"))
    time = dict(folder="a", stage="time", ok=True, at=224, load=3.0, ratio=2.5, float=100.0, packed=40.0)
    path = written(
        tmp_path,
        [*lines(("export", neck), folder="a"), time],
        lines(("export", whole), ("train", dict(frozen=["x"])), folder="b"),
        lines(offline, folder="c"),
    )
    sweep_page.write(tmp_path / "page.md", {"mmdet": path, "mmpretrain": tmp_path / "none.jsonl"})
    page = (tmp_path / "page.md").read_text()
    assert "| 4.0 | 0.2 | 100.0 | 40.0 | 2.50 | 2e-06 | graphs: backbone, layers | 3.0 | abc |  |" in page
    assert "| exact | layers |  | abc | 1 1-bit layers are frozen, as in the stock model |" in page
    assert "- a's neck: Neck has attention\n- b: it calls aten.x\n" in page
    assert "### Not run" in page
    assert "| `c` | needs a network | build: URLError: a / b | abc |" in page
    assert "Load meanwhile: 3 (median of 1 rows)." in page
    assert "- equal after packing: 1 in every bit, 1 up to rounding" in page
    assert "## mmpretrain" not in page


def test_a_page_is_read_as_it_was_written_and_new_results_take_the_place_of_its_rows(tmp_path):
    import sweep_page

    both = dict(graphs=["backbone"], layerwise={"neck": "Neck has attention: of one size", "head.a": "it draws"})
    failed = ("export", dict(ok=False, kind="our fault", error="RuntimeError: a | b", where=["x.py:3", "y.py:4"]))
    offline = ("build", dict(ok=False, kind="needs a network", error="URLError: a"))
    time = dict(folder="a", stage="time", ok=True, at=224, load=3.0, ratio=2.5, float=100.0, packed=40.0)
    page = tmp_path / "page.md"
    old = written(
        tmp_path,
        [*lines(("export", both), folder="a"), time],
        lines(("export", dict(graphs=[], layerwise={"all": "it calls aten.x"})), folder="b+c"),
        lines(failed, folder="d"),
        lines(offline, folder="e"),
    )
    sweep_page.write(page, {"mmdet": old})
    first, text = sweep_page.read(page)["mmdet"], page.read_text()
    assert first["a"].layerwise == both["layerwise"]
    assert first["b+c"].layerwise == {"all": "it calls aten.x"}
    assert (first["a"].ratio, first["a"].load, first["a"].commit) == (2.5, 3.0, "abc")
    assert first["d"].reason == "export: RuntimeError: a / b at `x.py:3`, `y.py:4`"
    sweep_page.write(page, {})
    assert page.read_text() == text
    new = written(
        tmp_path, [dict(line, commit="new") if line["stage"] == "start" else line for line in lines(folder="d")]
    )
    sweep_page.write(page, {"mmdet": new})
    rows = sweep_page.read(page)["mmdet"]
    assert (rows["d"].kind, rows["d"].commit) == ("done", "new")
    assert {name: row for name, row in rows.items() if name != "d"} == {n: r for n, r in first.items() if n != "d"}


def test_a_row_of_another_form_is_refused(tmp_path):
    import sweep_page

    page = tmp_path / "page.md"
    page.write_text("## mmdet\n\n| net<br><sub>net_small</sub> | 90% | 80% |\n")
    with pytest.raises(ValueError, match="net has 2 cells behind its name, and there are 12 columns"):
        sweep_page.read(page)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ([], "2 folders, 2 to do"),  # of another commit, and not timed
        (["--missing"], "2 folders, 1 to do"),
        (["--missing", "--again"], "2 folders, 2 to do"),
    ],
)
def test_a_sweep_leaves_out_what_the_page_says(tmp_path, monkeypatch, capsys, options, left):
    import sweep
    import sweep_page

    page = tmp_path / "page.md"
    sweep_page.write(page, {"mmdet": written(tmp_path, lines(folder="atss"))})
    monkeypatch.setattr(sweep, "folders", lambda library: ["atss", "retinanet"])
    monkeypatch.setattr(sweep, "run_one", lambda *args: "")
    out = str(tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["sweep.py", "mmdet", "--out", out, "--page", str(page), *options])
    sweep.main()
    assert left in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "stock", "kind"),
    [
        (OSError("We couldn't connect to 'https://huggingface.co'"), True, "needs a network"),
        (RuntimeError("deform_conv is not implemented on CPU"), True, "needs a GPU operator"),
        (RuntimeError("deform_conv is not implemented on CPU"), False, "our fault"),  # the stock model ran
        (ModuleNotFoundError("No module named 'timm'"), True, "needs another package"),
        (ValueError("shapes"), True, "the stock model fails here"),
        (ValueError("first line\nlast line"), False, "our fault"),
    ],
)
def test_a_failure_is_ours_only_where_the_stock_model_runs(error, stock, kind):
    from sweep_reasons import reason_of

    found = reason_of(error, stock)
    assert found["kind"] == kind
    assert found["error"].endswith(str(error).splitlines()[-1])


@pytest.mark.parametrize(
    ("killed", "kind"),
    [
        ("took more than 900 s (exit status -9)", "too large for the sweep"),
        ("no message (exit status -9)", "too large for the sweep"),
        ("ImportError: cannot import name 'AutoConfig' (exit status 1)", "our fault"),
    ],
)
def test_a_process_that_ends_before_its_first_stage_is_large_only_if_it_was_stopped(tmp_path, killed, kind):
    from sweep_rows import results, verdict

    start = dict(folder="net", stage="start", commit="abc", timed=False)
    path = written(tmp_path, [start, dict(folder="net", stage="end", seconds=1.0, killed=killed)])
    assert verdict(results(path)["net"])[0] == kind


def test_no_script_is_named_like_a_package_that_the_scripts_import():
    """Python looks into the folder of the script first: transformers.py would stand before the package."""
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    known = {"transformers", "torch", "torchvision", "numpy", "onnx", "onnxruntime", "openvino", "executorch", "timm"}
    assert not names & (known | {"mmcv", "mmdet", "mmengine", "mmpretrain", "rebnn_mm"} | set(sys.stdlib_module_names))


def test_no_weights_are_loaded():
    from sweep_configs import without_weights

    cfg = dict(
        pretrained="torchvision://resnet50",
        backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="x.pth"), depth=50),
        neck=[dict(init_cfg=[dict(type="Normal", std=0.1), dict(type="Pretrained", checkpoint="y")])],
        head=dict(init_cfg=dict(type="Normal", std=0.01)),
    )
    without_weights(cfg)
    assert cfg["pretrained"] is None
    assert cfg["backbone"] == dict(init_cfg=None, depth=50)
    assert cfg["neck"][0]["init_cfg"] == [dict(type="Normal", std=0.1)]
    assert cfg["head"]["init_cfg"] == dict(type="Normal", std=0.01)


def test_the_config_of_a_folder_is_chosen_by_rule():
    pytest.importorskip("mmpretrain")
    pytest.importorskip("mmdet")
    from sweep_configs import candidates, folders

    assert candidates("mmdet", "retinanet")[0].stem == "retinanet_r50_fpn_1x_coco"
    assert candidates("mmdet", "yolox")[0].stem == "yolox_tiny_8xb8-300e_coco"
    assert candidates("mmpretrain", "deit")[0].stem == "deit-tiny_4xb256_in1k"
    assert "_base_" not in folders("mmdet")


def test_a_crash_is_named_by_its_place():
    from sweep import crash

    errors = """warning: x
Fatal Python error: Segmentation fault

Current thread 0x1 (most recent call first):
  File "/a/site-packages/mmcv/ops/carafe.py", line 185 in backward
  File "/a/site-packages/torch/b.py", line 1 in c

Extension modules: numpy"""
    assert crash(errors) == "Fatal Python error: Segmentation fault at mmcv/ops/carafe.py, line 185 in backward"
    assert crash("first\n last \n") == "last"
    assert crash("") == "no message"


def test_every_config_of_this_package_that_is_named_is_there():
    from sweep_configs import candidates, folders

    paths = [path for name in folders("rebnn_mm") for path in candidates("rebnn_mm", name)]
    assert len(paths) > 10 and all(path.is_file() for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize(
    "library, folder, config",
    [("mmpretrain", "resnet", "resnet34_8xb32_in1k"), ("rebnn_mm", "resnet20_rebnn_cifar10", "resnet20_rebnn_cifar10")],
)
def test_the_command_takes_a_model_through_and_does_not_repeat_it(tmp_path, library, folder, config):
    pytest.importorskip("mmpretrain")
    pytest.importorskip("mmdet")
    command = [sys.executable, str(BENCHMARKS / "sweep.py"), library, "--only", folder, "--out", str(tmp_path)]
    first = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "1 to do" in first.stdout
    assert f"{folder:22} done" in first.stdout
    again = subprocess.run([*command, "--page", str(tmp_path / "page.md")], check=True, capture_output=True, text=True)
    assert "0 to do" in again.stdout
    assert f"| {folder}<br><sub>{config}</sub> |" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    ("graphs", "said"),
    [
        (["backbone", "neck"], "graphs: backbone, neck"),
        (["backbone", "neck", "head.a", "head.b"], "graphs: backbone, neck, 2 others"),
        (["backbone.layer1"], "graphs: 1 part"),
    ],
)
def test_towers_are_counted(graphs, said):
    from sweep_rows import form

    assert form(dict(export=dict(graphs=graphs, layerwise={}))) == said
