"""benchmarks/one_stage.py: the heads that it compares, and the parts that it times."""

import importlib
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")

from rebnn_mm.integrations.build import build_model
from rebnn_mm.layers import binary_layers
from rebnn_mm.workflows.export import noise

pytestmark = [
    pytest.mark.usefixtures("threads"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of mmdet's anchors
]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("one_stage")


@pytest.mark.parametrize("name", ["rtmdet", "fcos", "atss", "retinanet"])
def test_each_head_has_two_1_bit_convolutions_a_tower(script, name):
    cfg = script.config(name, 5)
    assert cfg.model.bbox_head.num_classes == 5
    layers = binary_layers(build_model(cfg))
    assert sum("_convs." in key and "bbox_head" in key for key in layers) == 4
    assert sum(key.startswith("backbone") for key in layers) == 16


@pytest.mark.slow
def test_the_packed_detector_and_its_twin_run_and_have_their_parts_timed(script):
    packed, twin = script.detectors(script.config("fcos", 3), 64)
    assert not binary_layers(twin) and not packed.training
    line = script.parts(packed, noise((64, 64), 1, 3), calls=3)
    assert [part.rsplit(" ", 1)[0] for part in line.split(", ")] == [
        *("preprocessing", "backbone", "neck", "head", "boxes and the rest")
    ]
    assert torch.get_num_threads() == 1
