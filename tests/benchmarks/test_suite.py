"""benchmarks/suite.py and layers.py: what they run."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts import one another as they do when they are run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_linear_layers_run_in_all_three_forms():
    from layers import linear_layers

    candidates = linear_layers(70, 33, 5)
    assert [name.split(" (")[0] for name in candidates] == ["packed", "torch fp32", "torch int8 dynamic"]
    assert all(timed(1) >= 0 for timed in candidates.values())


def test_the_suite_runs_every_step_and_counts_failures(monkeypatch, capfd):
    import suite

    steps = [
        suite.Step("one", (sys.executable, "-c", "import os; print(os.environ['WHAT'])"), {"WHAT": "it ran"}),
        suite.Step("two", (sys.executable, "-c", "raise SystemExit(3)")),
    ]
    monkeypatch.setattr(suite, "steps", lambda *args: iter(steps))
    assert suite.run_suite() == 1
    out = capfd.readouterr().out
    assert "## one\n\n    WHAT='it ran' python -c" in out and "\nit ran\n" in out
    assert "failed with exit code 3" in out


@pytest.mark.slow
def test_what_the_suite_compares_is_built(tmp_path, monkeypatch):
    import suite

    monkeypatch.setattr(suite, "DETECTORS", {})
    layers, avx2, network = suite.steps(tmp_path, 21, True, "lce/python")
    assert "--lce" in layers.command and avx2.environment["REBNN_MM_ISA"] == "avx2"
    file, config, checkpoint = network.command[2:5]
    assert (ROOT / config).exists() and Path(file).stat().st_size * 10 < Path(checkpoint).stat().st_size
    assert network.command[1] == "benchmarks/classifier.py" and "--onnxruntime" in network.command


def test_openvino_is_timed_where_it_is_asked_for(tmp_path, monkeypatch):
    import suite

    monkeypatch.setattr(suite, "DETECTORS", {})
    monkeypatch.setattr(suite, "_untrained", lambda config, path, options: ("m.rebnn", config, "m.pth"))
    (step,) = [s for s in suite.steps(tmp_path, 5, False, None, openvino=True) if "openvino_peer" in s.command[1]]
    assert (ROOT / step.command[1]).exists() and step.command[2:] == ("--rounds", "5")


def test_layers_and_units_run_in_both_run_times():
    pytest.importorskip("openvino")
    from openvino_peer import layer_candidates

    candidates = layer_candidates(8, 5, 1)
    assert len(candidates) == 6 and all(timed(1) >= 0 for timed in candidates.values())


def test_without_larq_the_suite_runs_the_tool(tmp_path, monkeypatch):
    import suite

    monkeypatch.setattr(suite, "DETECTORS", {"300 proposals": suite.FEWER_PROPOSALS})
    monkeypatch.setattr(suite, "_untrained", lambda config, path, options: ("m.rebnn", config, "m.pth"))
    commands = [step.command[1:] for step in suite.steps(tmp_path, 21, False, None)]
    assert [command[0] for command in commands[2:]] == ["tools/benchmark.py"] * 2
    assert commands[2][1:5] == ("m.rebnn", "--compare", suite.CLASSIFIER, "m.pth")
    assert commands[3][5:7] == ("--cfg-options", "model.test_cfg.rpn.max_per_img=300")
    assert "--onnx" not in commands[0] and all((ROOT / command[0]).exists() for command in commands)
