import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rebnn_mm.deploy import export_model
from rebnn_mm.deploy.timing import compare, format_timings, machine

pytestmark = pytest.mark.usefixtures("threads")
ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_candidates_take_turns_and_ratios_are_paired():
    calls = []
    timings = compare({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=5)
    assert calls == ["a", "b"] * 7
    assert [t.name for t in timings] == ["a", "b"] and timings[0].ratio == timings[0].ratio_high == 1
    assert all(t.low <= t.mid <= t.high and t.ratio_low <= t.ratio <= t.ratio_high for t in timings)
    slow = compare({"fast": lambda: None, "slow": lambda: time.sleep(0.002)}, rounds=3)[1]
    assert slow.mid >= 2 and slow.ratio > 1
    assert re.search(r"slow +\d+\.\d\d ", format_timings([slow]))


def test_bad_use_is_refused():
    for options in (
        dict(candidates={}),
        dict(candidates={"a": print}, rounds=2),
        dict(candidates={"a": print}, clock="x"),
    ):
        with pytest.raises(ValueError, match="at least 1 and 3"):
            compare(**options)


def test_the_machine_is_named():
    text = machine()
    assert "kernels" in text and torch.__version__ in text and f"threads     {torch.get_num_threads()}" in text


def test_twin_has_the_shapes_and_no_signs(classifier):
    from rebnn_mm.integrations.benchmark import real_twin
    from rebnn_mm.layers import binary_layers

    model = classifier(base_channels=8)
    twin = real_twin(model)
    assert binary_layers(model) and not binary_layers(twin)
    conv, plain = model.backbone.layer2[0].unit.conv, twin.backbone.layer2[0].unit.conv
    assert torch.equal(plain.weight, conv.alpha * conv.binary_weight()) and plain.stride == conv.stride
    assert twin(torch.randn(1, 3, 40, 40)).shape == (1, 10)


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
    command += ["--rounds", "3", "--shape", "32", "32"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV)
    assert done.returncode == 0, done.stderr
    assert "processor" in done.stdout and "1 x 3 x 32 x 32, 3 rounds" in done.stdout
    for name in ("packed", "trained, simulated 1-bit", "real-valued twin, torch eager"):
        assert re.search(rf"^{name} +\d", done.stdout, re.M), done.stdout
