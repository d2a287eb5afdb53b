"""Fixtures for all tests."""

import copy
import gc
import importlib.util
import signal
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.visualization import Visualizer
from used_norms import used

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Let Ctrl-C interrupt, as from a terminal: what a shell starts in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tool():
    """``tool(name)(*argv)`` runs a tool in this process: importing mmdet anew takes seconds."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def run(*argv):
            # A finaliser that runs while a config is parsed makes CPython 3.11 fail there (python/cpython issue
            # 106905): what the last tool left is collected first.
            gc.collect()
            # mmengine keeps visualizers by name, for each class of them, as long as a process lives, and mmdet takes
            # the one named last: a tool is a process of its own
            for kind in (Visualizer, *Visualizer.__subclasses__()):
                kind._instance_dict.clear()
            return module.main([str(arg) for arg in argv])

        return run

    return load


@pytest.fixture
def threads():
    """Set torch's number of threads, 1 at first; the old number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def classifier():
    """mmpretrain's ImageClassifier of a ReBNNResNet: ``classifier(depth=18, classes=10, base_channels=16, ...)``."""
    pytest.importorskip("mmpretrain.models")  # registers them
    made = {}

    def build(depth=18, classes=10, base_channels=16, **backbone):
        key = str((depth, classes, base_channels, sorted(backbone.items())))
        if key not in made:
            torch.manual_seed(0)
            init_default_scope("mmpretrain")
            features = base_channels * 8 * (4 if depth == 50 else 1)
            model = MODELS.build(
                dict(
                    type="ImageClassifier",
                    backbone=dict(type="ReBNNResNet", depth=depth, base_channels=base_channels, **backbone),
                    neck=dict(type="GlobalAveragePooling"),
                    head=dict(type="LinearClsHead", num_classes=classes, in_channels=features),
                )
            )
            made[key] = used(model, lambda m, x: m.backbone(x), backbone.get("in_channels", 3))
        return copy.deepcopy(made[key])

    return build
