"""The examples of the docs, pasted as they stand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet")

import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from rebnn_mm.estimators import clipped_sign
from rebnn_mm.functional import scale_init
from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.layers import BinaryConv2d, BiRealConv2d
from rebnn_mm.workflows.demo_data import CLASSES, make_demo_data

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "own_data.md"


def examples(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def code(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pasted(text, tmp_path, **edits):
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "mine.py"
    path.write_text(text.replace("'./", f"'{ROOT}/configs/"))
    return path


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_nb")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path / "pages")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    built = {path.stem for path in (tmp_path / "pages").glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= built


def test_recording_a_run_is_what_the_shipped_configs_do():
    written: dict = {}
    exec(examples(ROOT / "docs" / "oscillation.md")[0], written)
    assert written["custom_hooks"] == read_config(ROOT / "configs" / "resnet18_rebnn_cifar10.py").custom_hooks


@pytest.mark.slow
def test_own_voc_data(tmp_path):
    make_demo_data(tmp_path, train=2, test=1)
    edits = {"('cat', 'dog')": str(CLASSES), "num_classes=2": "num_classes=4", "data/mine/": f"{tmp_path}/VOCdevkit/"}
    cfg = read_config(pasted(examples(GUIDE)[0], tmp_path, **edits))
    assert Runner.build_dataloader(cfg.train_dataloader).dataset.metainfo["classes"] == CLASSES
    assert len(Runner.build_dataloader(cfg.test_dataloader).dataset) == 1
    assert build_model(cfg).roi_head.bbox_head.num_classes == 4


@pytest.mark.slow
def test_own_coco_data(tmp_path):
    image = dict(id=7, file_name="a.jpg", width=100, height=80)
    box = dict(id=1, image_id=7, category_id=5, bbox=[10, 10, 40, 40], area=1600, iscrowd=0)
    content = dict(images=[image], annotations=[box], categories=[dict(id=3, name="cat"), dict(id=5, name="dog")])
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    cfg = read_config(pasted(examples(GUIDE)[1], tmp_path, **{"data/mine/": f"{tmp_path}/"}))
    dataset = Runner.build_dataloader(cfg.train_dataloader).dataset
    assert dataset.metainfo["classes"] == ("cat", "dog")
    assert dataset.get_data_info(0)["instances"][0]["bbox_label"] == 1
    assert cfg.test_evaluator.ann_file == f"{tmp_path}/val.json"


def test_new_detector_is_the_shipped_config():
    example = examples(GUIDE)[2]
    assert code(example) == code((ROOT / "configs" / "retinanet_rebnn_r18_coco.py").read_text())
    assert len(example.splitlines()) < 20


def test_a_method_of_ones_own():
    names = dict(MODELS=MODELS, BinaryConv2d=BinaryConv2d, nn=nn, clipped_sign=clipped_sign, scale_init=scale_init)
    exec(examples(ROOT / "docs" / "methods.md")[0], names)
    halved, whole = MODELS.get("HalvedConv2d")(3, 4, 3), BiRealConv2d(3, 4, 3)
    whole.load_state_dict(halved.state_dict())
    assert torch.equal(halved.scale() * 2, whole.scale())


def test_a_training_loop_of_ones_own(capsys):
    names: dict = {}
    torch.manual_seed(0)
    exec(examples(ROOT / "docs" / "methods.md")[1], names)
    means = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert means[0] == 0 and means[-1] > 0 and names["state"]["balance"]["updates"] == 10


@pytest.mark.slow  # captures a ResNet-18
def test_the_first_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(examples(ROOT / "README.md")[0], names)
    assert names["scores"].shape == (2, 10)
    assert (tmp_path / "model.rebnn").stat().st_size < 2_500_000


def test_relative_links_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_config_that_the_pages_name_exists():
    text = (ROOT / "README.md").read_text() + GUIDE.read_text() + (ROOT / "docs" / "configs.md").read_text()
    for name in re.findall(r"configs/([\w/]+\.py)", text):
        assert (ROOT / "configs" / name).exists() or name == "mine.py", name
