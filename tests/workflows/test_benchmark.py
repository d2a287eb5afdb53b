"""tools/benchmark.py and what it compares with."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rebnn_mm.deploy import export_model
from rebnn_mm.errors import UserError

pytestmark = pytest.mark.usefixtures("threads")
ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_twin_has_the_shapes_and_no_signs(classifier):
    from rebnn_mm.layers import binary_layers
    from rebnn_mm.workflows.benchmark import real_twin

    model = classifier(base_channels=8)
    twin = real_twin(model)
    assert binary_layers(model) and not binary_layers(twin)
    conv, plain = model.backbone.layer2[0].unit.conv, twin.backbone.layer2[0].unit.conv
    assert torch.equal(plain.weight, conv.scale() * conv.binary_weight()) and plain.stride == conv.stride
    assert twin(torch.randn(1, 3, 40, 40)).shape == (1, 10)


@pytest.mark.parametrize("method", ["Sign", "XNOR", "BiReal", "IRNet", "ReAct", "ReCU", "ReBNN"])
def test_twin_of_every_method_keeps_the_norm_and_drops_the_shortcut(method):
    from mmengine.registry import MODELS

    from rebnn_mm.workflows.benchmark import real_twin

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


def test_a_file_is_held_beside_the_config_that_it_was_exported_from(classifier, tmp_path):
    from rebnn_mm.deploy import ModelCard
    from rebnn_mm.integrations.build import read_config
    from rebnn_mm.workflows.benchmark import benchmark_model

    cfg = read_config(ROOT / "configs/resnet18_rebnn_cifar10.py")
    path = tmp_path / "m.rebnn"
    export_model(classifier(stem="cifar", base_channels=8), path, ModelCard(config=cfg.to_dict()))
    cfg.model.test_cfg = dict(max_per_img=1)  # the same network, and another time
    with pytest.raises(UserError, match="exported from another model than the config's .model.test_cfg was None"):
        benchmark_model(path, (32, 32), trained=(cfg, "none.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a MODEL.rebnn file"),
        (["--suite"], "in a checkout, python benchmarks/suite.py"),
        (["m.rebnn", "--lce", "python"], "in a checkout, python benchmarks/suite.py"),
    ],
)
def test_what_the_tool_does_not_do_is_said(tool, arguments, sentence, capsys):
    with pytest.raises(SystemExit):
        tool("benchmark")(*arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("numbers", [((32, 0), 1, [1]), ((32, 32), 0, [1]), ((32, 32), 1, [2, 0])])
def test_numbers_below_one_are_refused_before_anything_is_read(numbers):
    from rebnn_mm.workflows.benchmark import benchmark_model

    size, batch, threads = numbers
    with pytest.raises(UserError, match="all are whole numbers from 1 on"):
        benchmark_model("none.rebnn", size, batch, threads=threads)
