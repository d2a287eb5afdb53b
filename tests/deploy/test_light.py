"""A classifier file needs torch and numpy only: run where the rest cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rebnn_mm.deploy import ModelCard, Preprocessing, export_model, load_model

# torch itself may give other bits with another number of threads
pytestmark = pytest.mark.usefixtures("threads")
ROOT = Path(__file__).parents[2]
# what Python itself takes for a module that is known not to be there
BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(["mmengine", "mmcv", "mmdet", "mmpretrain", "cv2"]))
import torch
"""


def light(code, *args):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", BLOCKED + code, *args], capture_output=True, text=True, env=env)


@pytest.mark.slow
def test_a_classifier_runs_with_torch_alone(classifier, tmp_path):
    card = ModelCard(preprocessing=Preprocessing((120.0,) * 3, (60.0,) * 3), classes=tuple("abcdefghij"))
    export_model(classifier(base_channels=8), tmp_path / "m.rebnn", card)
    images = torch.randint(0, 256, (2, 3, 45, 50), dtype=torch.uint8)
    torch.save(images, tmp_path / "images.pt")
    code = """
from rebnn_mm.deploy import load_model
model = load_model(sys.argv[1])
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
print(model.card.classes[3], [name for name in sys.modules if name.startswith("mm") and sys.modules[name]])
"""
    done = light(code, *(str(tmp_path / name) for name in ("m.rebnn", "images.pt", "scores.pt")))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "d ['mmap']"
    assert torch.equal(torch.load(tmp_path / "scores.pt"), load_model(tmp_path / "m.rebnn")(images))


@pytest.mark.slow
def test_what_needs_more_says_so(tmp_path, detector):
    cfg, checkpoint, model = detector
    export_model(model, tmp_path / "d.rebnn", ModelCard(config=cfg.to_dict()))
    done = light("from rebnn_mm.deploy import load_model; load_model(sys.argv[1])", str(tmp_path / "d.rebnn"))
    assert "mmengine" in done.stderr.splitlines()[-1] and "ModuleNotFoundError" in done.stderr
    done = light("from rebnn_mm.deploy import export_model")
    assert "mmengine" in done.stderr.splitlines()[-1] and "ModuleNotFoundError" in done.stderr
