"""The folder data set and the classification configs, down to one training iteration."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmpretrain")

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

from rebnn_mm.integrations.classification import datasets as classification
from rebnn_mm.integrations.classification.datasets import CheckedImageFolder
from rebnn_mm.layers import binary_layers

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.fixture(autouse=True)
def clean_scope():
    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


def make_folder(root: Path, train=("cat", "dog"), val=("cat", "dog"), images: int = 4, size: int = 32) -> Path:
    rng = np.random.default_rng(0)
    for split, classes in (("train", train), ("val", val)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for index in range(images):
                cv2.imwrite(str(root / split / name / f"{index}.png"), rng.integers(0, 255, (size, size, 3), np.uint8))
    return root


def folder(root, split="val", **options) -> CheckedImageFolder:
    return CheckedImageFolder(data_root=str(root), data_prefix=split, pipeline=[], **options)


@pytest.mark.slow
def test_labels_follow_the_sorted_folder_names(tmp_path):
    data = folder(make_folder(tmp_path, images=2), same_classes_as="train")
    assert len(data) == 4
    assert data.CLASSES == ("cat", "dog")
    assert data.get_gt_labels().tolist() == [0, 0, 1, 1]


def test_missing_data_names_the_path_and_the_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere/val.*--cfg-options data_root=FOLDER.*From the moon"):
        folder(tmp_path / "nowhere", source="From the moon.")


def test_missing_data_message_survives_the_registry(tmp_path):
    cfg = dict(
        type="mmpretrain.CheckedImageFolder", data_root=str(tmp_path / "nowhere"), data_prefix="val", pipeline=[]
    )
    with pytest.raises(FileNotFoundError, match="nowhere/val"):
        DATASETS.build(cfg)


def test_empty_split(tmp_path):
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="val has no image in a class folder"):
        folder(tmp_path)
    (tmp_path / "val" / "loose.png").touch()  # an image beside the class folders is in no class
    with pytest.raises(ValueError, match="val has no image in a class folder"):
        folder(tmp_path)


@pytest.mark.slow
def test_a_class_folder_without_image_is_refused(tmp_path):
    make_folder(tmp_path, images=2)
    for split in ("train", "val"):
        for file in (tmp_path / split / "dog").iterdir():
            file.rename(file.with_suffix(".jp2"))
        match = rf"class folder .*{split}/dog has no image, only 2 file\(s\) .jp2: .*extensions="
        with pytest.raises(ValueError, match=match):
            folder(tmp_path, split, same_classes_as="train" if split == "val" else "")
    data = folder(tmp_path, "train", extensions=(".png", ".jp2"))  # what the sentence says to do
    assert data.get_gt_labels().tolist() == [0, 0, 1, 1]


@pytest.mark.slow
def test_an_empty_class_folder_cannot_be_learnt(tmp_path):
    make_folder(tmp_path, images=1)
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*train/cow is empty, and its class cannot be learnt"):
        folder(tmp_path, "train")
    # the same folder in val keeps the labels equal, and is asked for by same_classes_as
    (tmp_path / "val" / "cow").mkdir()
    assert folder(tmp_path, same_classes_as="train").get_gt_labels().tolist() == [0, 2]


@pytest.mark.slow
def test_files_left_out_are_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(classification, "print_log", lambda message, **kwargs: said.append(message))
    make_folder(tmp_path, images=2)
    (tmp_path / "val" / "cat" / ".hidden").touch()
    folder(tmp_path)
    assert said == []
    (tmp_path / "val" / "cat" / "more").mkdir()
    (tmp_path / "val" / "cat" / "more" / "a.HEIC").touch()
    (tmp_path / "val" / "dog" / "list").touch()
    assert len(folder(tmp_path)) == 4
    assert "1 file(s) without suffix, 1 file(s) .heic in class folders are left out" in said[0]


def test_hidden_files_are_no_images(tmp_path):
    make_folder(tmp_path, images=1)
    (tmp_path / "val" / "cat" / "._0.png").write_bytes(b"what macOS leaves on a foreign disk")
    (tmp_path / "val" / "cat" / ".kept").mkdir()
    (tmp_path / "val" / "cat" / ".kept" / "0.png").touch()
    assert [Path(sample[0]).name for sample in folder(tmp_path)._find_samples()] == ["0.png", "0.png"]
    assert len(folder(tmp_path)) == 2


@pytest.mark.slow
def test_images_without_labels_have_no_class_folders_to_check(tmp_path):
    make_folder(tmp_path, images=1)
    (tmp_path / "val" / "cow").mkdir()
    assert len(folder(tmp_path, with_label=False)) == 2


def test_splits_with_other_classes(tmp_path):
    make_folder(tmp_path, train=("cat", "dog"), val=("cat", "cow"), images=1)
    with pytest.raises(ValueError, match=r"missing \['dog'\], unknown \['cow'\]"):
        folder(tmp_path, same_classes_as="train")


@pytest.mark.slow
def test_other_split_may_be_absent(tmp_path):
    make_folder(tmp_path, train=(), images=1)
    assert len(folder(tmp_path, same_classes_as="train")) == 2


def load(name: str, root: Path, work_dir: Path) -> Config:
    cfg = Config.fromfile(CONFIGS / name)
    options = {f"{split}_dataloader.dataset.data_root": str(root) for split in ("train", "val", "test")}
    options.update(
        {
            f"{split}_dataloader.{k}": v
            for split in ("train", "val", "test")
            for k, v in (("batch_size", 4), ("num_workers", 0))
        }
    )
    cfg.merge_from_dict(options)
    cfg.work_dir = str(work_dir)
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rebnn", "real", "irnet", "recu"])  # the last two have hooks of their own
def test_cifar10_config_trains_an_iteration(method, tmp_path):
    cfg = load(f"resnet18_{method}_cifar10.py", make_folder(tmp_path / "data", images=2), tmp_path / "work")
    cfg.merge_from_dict(
        {
            "model.backbone.base_channels": 8,
            "model.head.in_channels": 64,
            "model.head.num_classes": 2,
            "train_cfg.max_epochs": 1,
        }
    )
    runner = Runner.from_cfg(cfg)
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    runner.train()
    layers = binary_layers(runner.model)
    assert len(layers) == (0 if method == "real" else 16)
    moved = {name for name, p in runner.model.named_parameters() if not torch.equal(p, before[name])}
    assert {f"{name}.weight" for name in layers} <= moved
    assert {f"{name}.alpha" for name in layers if method in ("rebnn", "recu")} <= moved
    assert "accuracy/top1" in runner.message_hub.log_scalars or "val/accuracy/top1" in runner.message_hub.log_scalars
    # 256 epochs are the default, and the learning rate ends with train_cfg.max_epochs
    assert runner.param_schedulers[0].end == runner.max_iters


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 34])
@pytest.mark.parametrize("method", ["rebnn", "real"])
def test_imagenet_configs_build_as_twins(depth, method, tmp_path):
    cfg = load(f"resnet{depth}_{method}_imagenet.py", tmp_path, tmp_path / "work")
    hooks = {hook["type"]: hook for hook in cfg.custom_hooks}
    if method == "rebnn":
        assert hooks["BalanceHook"]["magnitude"] == "gradient"
    else:
        assert "BalanceHook" not in hooks
    assert cfg.auto_scale_lr.base_batch_size == 512
    assert cfg.optim_wrapper.optimizer.type == "Adam" and cfg.optim_wrapper.optimizer.weight_decay == 0
    runner = Runner.from_cfg(cfg)
    assert len(binary_layers(runner.model)) == ({18: 16, 34: 32}[depth] if method == "rebnn" else 0)


def test_missing_imagenet_says_where_to_get_it(tmp_path):
    DefaultScope.get_instance("test_classification", scope_name="mmpretrain")
    cfg = load("resnet18_rebnn_imagenet.py", tmp_path / "nowhere", tmp_path / "work")
    with pytest.raises(FileNotFoundError, match="data_root=FOLDER.*image-net.org"):
        Runner.build_dataloader(cfg.train_dataloader)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "one_bit", "real"),
    [
        ("resnet50_binarized_imagenet.py", "backbone.layer3.2.conv2", "backbone.layer1.0.downsample.0"),
        ("retinanet_binarized_r50_coco.py", "bbox_head.cls_convs.0.conv", "bbox_head.retina_cls"),
    ],
)
def test_stock_configs_binarized(name, one_bit, real, tmp_path):
    if name.startswith("retinanet"):
        pytest.importorskip("mmdet")
    cfg = Config.fromfile(CONFIGS / name)
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    layers = binary_layers(runner.model)
    assert one_bit in layers and real not in layers
    assert all(layer.weight.requires_grad for layer in layers.values())
    assert any(hook["type"] == "BalanceHook" for hook in cfg.custom_hooks)
