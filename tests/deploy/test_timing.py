import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rebnn_mm.deploy import export_model
from rebnn_mm.deploy.benchmark import linear_layers
from rebnn_mm.deploy.timing import candidate, compare, format_timings, machine

pytestmark = pytest.mark.usefixtures("threads")
ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_linear_layers_run_in_all_three_forms():
    candidates = linear_layers(70, 33, 5)
    assert [name.split(" (")[0] for name in candidates] == ["packed", "torch fp32", "torch int8 dynamic"]
    assert all(timed(1) >= 0 for timed in candidates.values())


def test_candidates_take_turns_and_ratios_are_paired():
    calls = []

    def fake(name, milliseconds):
        def timed(count):
            calls.append((name, count))
            return milliseconds

        return timed

    timings = compare({"a": fake("a", 8.0), "b": fake("b", 80.0)}, rounds=3)
    # one call, two to learn how many fit into a turn of 20 ms; then turns, the short one's after a call to warm up
    assert calls == [("a", 1), ("a", 2), ("b", 1), ("b", 2)] + [("a", 1), ("a", 2), ("b", 1)] * 3
    assert [(t.name, t.mid, t.ratio, t.ratio_high) for t in timings] == [("a", 8, 1, 1), ("b", 80, 10, 10)]
    assert re.search(r"b +80\.000 .* 10\.00", format_timings(timings))


def test_a_candidate_is_called_and_timed():
    calls = []
    timed = candidate(lambda: (calls.append(torch.get_num_threads()), time.sleep(0.002)), threads=2)
    assert timed(3) >= 2 and calls == [2, 2, 2]


def test_bad_use_is_refused():
    for options in (dict(candidates={}), dict(candidates={"a": candidate(print)}, rounds=2)):
        with pytest.raises(ValueError, match="at least 1 and 3"):
            compare(**options)
    for options in (dict(clock="x"), dict(threads=0)):
        with pytest.raises(ValueError, match="at least 1 thread"):
            candidate(print, **options)


def test_the_machine_is_named():
    text = machine()
    assert "kernels" in text and torch.__version__ in text


def test_twin_has_the_shapes_and_no_signs(classifier):
    from rebnn_mm.integrations.benchmark import real_twin
    from rebnn_mm.layers import binary_layers

    model = classifier(base_channels=8)
    twin = real_twin(model)
    assert binary_layers(model) and not binary_layers(twin)
    conv, plain = model.backbone.layer2[0].unit.conv, twin.backbone.layer2[0].unit.conv
    assert torch.equal(plain.weight, conv.alpha * conv.binary_weight()) and plain.stride == conv.stride
    assert twin(torch.randn(1, 3, 40, 40)).shape == (1, 10)


@pytest.mark.parametrize("method", ["Sign", "XNOR", "BiReal", "IRNet", "ReAct", "ReCU", "ReBNN"])
def test_twin_of_every_method_keeps_the_norm_and_drops_the_shortcut(method):
    from mmengine.registry import MODELS

    from rebnn_mm.integrations.benchmark import real_twin

    layer = MODELS.get(f"{method}Conv2d")(
        4, 4, 3, padding=1, bias=True, input_norm=True, shortcut=True, weight_only=True
    )
    layer.input_norm.running_mean.fill_(0.5)
    linear = MODELS.get(f"{method}Linear")(4, 3)
    twin = real_twin(torch.nn.Sequential(layer, linear))
    x, layer = torch.rand(2, 4, 5, 5), layer.eval()
    torch.testing.assert_close(twin[0](x), layer(x) - x)  # with real inputs, the twin is the layer
    scale = 1.0 if linear.scale() is None else linear.scale()
    assert torch.equal(twin[1].weight, linear.binary_weight() * scale) and torch.equal(twin[1].bias, linear.bias)


@pytest.mark.slow
def test_tool(classifier, tmp_path):
    model = classifier(stem="cifar", base_channels=64)
    export_model(model, tmp_path / "m.rebnn")
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "m.pth")
    config = ROOT / "configs/resnet18_rebnn_cifar10.py"
    command = [
        sys.executable,
        ROOT / "tools/benchmark.py",
        tmp_path / "m.rebnn",
        "--compare",
        config,
        tmp_path / "m.pth",
    ]
    command += ["--rounds", "3", "--shape", "32", "32", "--threads", "1", "2", "--onnxruntime"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV)
    assert done.returncode == 0, done.stderr
    assert (
        "processor" in done.stdout and "load_model takes" in done.stdout and "1 x 3 x 32 x 32, 3 rounds" in done.stdout
    )
    for name in (
        "packed",
        "trained, simulated 1-bit",
        "real-valued twin, torch eager",
        "packed, 2 threads",
        "real-valued, onnxruntime int8",
    ):
        assert re.search(rf"^{name} +\d", done.stdout, re.M), done.stdout


def test_the_suite_runs_every_step_and_counts_failures(monkeypatch, capfd):
    from rebnn_mm.integrations import suite

    steps = [
        suite.Step("one", (sys.executable, "-c", "import os; print(os.environ['WHAT'])"), {"WHAT": "it ran"}),
        suite.Step("two", (sys.executable, "-c", "raise SystemExit(3)")),
    ]
    monkeypatch.setattr(suite, "_steps", lambda *args: iter(steps))
    assert suite.run_suite() == 1
    out = capfd.readouterr().out
    assert "## one\n\n    WHAT='it ran' python -c" in out and "\nit ran\n" in out
    assert "failed with exit code 3" in out


def test_what_the_suite_compares_is_built(tmp_path, monkeypatch):
    from rebnn_mm.integrations import suite

    monkeypatch.setattr(suite, "DETECTORS", {})
    layers, avx2, network = suite._steps(tmp_path, 21, True, "lce/python")
    assert "--lce" in layers.command and avx2.environment["REBNN_MM_ISA"] == "avx2"
    file, _, config, checkpoint = network.command[2:6]
    assert (ROOT / config).exists() and Path(file).stat().st_size * 10 < Path(checkpoint).stat().st_size
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="runs in a checkout"):
        suite.run_suite()


@pytest.mark.parametrize("arguments", [[], ["m.rebnn", "--suite"]])
def test_a_file_or_the_suite(tool, arguments, capsys):
    with pytest.raises(SystemExit):
        tool("benchmark")(*arguments)
    assert "name a MODEL.rebnn file, or --suite without one" in capsys.readouterr().err
