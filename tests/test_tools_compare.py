"""tools/compare.py on two real configs: stopped by Ctrl-C, taken up again, reported, changed."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmpretrain")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
SPEC = """
metric = 'accuracy/top1'
seeds = [0]
baseline = 'real'
options = {{
    'data_root': '{root}', 'train_cfg.max_epochs': 2, 'model.backbone.base_channels': 8, 'model.head.in_channels': 64,
    'train_dataloader.batch_size': 4, 'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0,
    'default_hooks.logger.interval': 1}}
entries = dict(
    real=dict(config='{configs}/resnet18_real_cifar10.py'),
    rebnn=dict(config='{configs}/resnet18_rebnn_cifar10.py', options={{
        'custom_hooks.0.magnitude': 'gradient',
        'default_hooks.oscillation.type': 'OscillationHook', 'default_hooks.oscillation.interval': 1}}))
"""


@pytest.fixture
def spec(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label, value in (("dark", 60), ("light", 180)):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                image = np.clip(rng.normal(value, 50, (32, 32, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / f"{index}.png"), image)
    path = tmp_path / "tiny.py"
    path.write_text(SPEC.format(root=tmp_path / "data", configs=ROOT / "configs"))
    return path


@contextmanager
def ctrl_c_when(path):
    """Press Ctrl-C once ``path`` exists, unless the block has ended before."""
    ended = threading.Event()

    def press():
        while not ended.wait(0.02):
            if path.exists():
                return os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_stopped_resumed_reported_and_changed(tool, spec, tmp_path, capsys):
    out = tmp_path / "out"
    with ctrl_c_when(out / "real" / "seed0" / "last_checkpoint"), pytest.raises(SystemExit) as stop:
        tool("compare")(spec, "--out", out, "--jobs", "1")
    assert stop.value.code == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match("compare: stopped while training real/seed0; the same command goes on", last)
    assert json.loads((out / "real" / "seed0" / "run.json").read_text())["state"] == "running"

    tool("compare")(spec, "--out", out, "--jobs", "2")
    shown = capsys.readouterr().out
    assert "resumed real/seed0" in shown and "[2/2]" in shown
    assert re.search(r"^\| rebnn \| 1 \| [\d.]+ \|", shown, re.MULTILINE)
    entry = json.loads((out / "results.json").read_text())["entries"]["rebnn"]
    assert set(entry["values"]) == {"0"} and None not in (entry["flip_share"], entry["flip_back_share"])
    figures = {"metric.png", "metric_course.png", "flip_share_course.png", "gamma_course.png"}
    assert figures <= {path.name for path in out.glob("*.png")}

    tool("compare")(spec, "--out", out, "--report-only")
    assert "started" not in capsys.readouterr().out
    spec.write_text(spec.read_text().replace("'gradient'", "'weight'"))
    with pytest.raises(SystemExit, match=r"^compare: .*rebnn/seed0 was trained with other settings \(.*=gradient"):
        tool("compare")(spec, "--out", out)


def test_every_run_fails(tool, tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "default_scope = 'mmengine'\nmodel = dict(type='Nowhere')\ntrain_cfg = dict(max_epochs=1)\n"
    )
    spec = tmp_path / "spec.py"
    spec.write_text("metric = 'acc'\nseeds = [0]\nentries = dict(one=dict(config='net.py'))\n")
    with pytest.raises(SystemExit, match="^compare: .*work_dirs/compare/spec has no finished run"):
        tool("compare")(spec, "--out", tmp_path / "work_dirs" / "compare" / "spec")
    assert "compare: one/seed0 failed: exit status 1: " in capsys.readouterr().out
