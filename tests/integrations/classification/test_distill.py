"""Distilled classifiers: the loss, what is saved, the teacher's weights, and the recipe's augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("mmpretrain")

from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS
from mmpretrain.structures import DataSample

from rebnn_mm.distill import FrozenTeacher
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.integrations.teacher import build_teacher, from_torchvision

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SMALL = {
    "model.backbone.base_channels": 8,
    "model.head.in_channels": 64,
    "model.head.num_classes": 3,
}
TEACHER = dict(
    type="ImageClassifier",
    backbone=dict(type="ReBNNResNet", base_channels=4, conv_cfg=dict(type="Conv2d")),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=3, in_channels=32),
)


def config(checkpoint=None, name="resnet18_rebnn_imagenet_stage2.py", **options):
    teacher = {"model.teacher": dict(_delete_=True, config=TEACHER, checkpoint=str(checkpoint))}
    return read_config(CONFIGS / name, {**SMALL, **teacher, **options})


@pytest.fixture
def checkpoint(tmp_path):
    """Weights of the small teacher."""
    torch.manual_seed(1)
    config()
    model = MODELS.build(TEACHER)
    model.init_weights()
    torch.save(model.state_dict(), tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth"


def batch(number=4):
    images = torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return images, [DataSample().set_gt_label(i % 3) for i in range(number)]


def test_a_teacher_among_the_shipped_configs_is_found_from_any_folder(tmp_path, monkeypatch):
    student = build_model(config())
    monkeypatch.chdir(tmp_path)
    teacher = dict(config="configs/resnet18_real_imagenette.py", checkpoint="none.pth")
    with pytest.raises(UserError, match="the teacher's checkpoint none.pth is not a file"):
        build_teacher(teacher, student)
    (tmp_path / "configs").mkdir()
    (tmp_path / teacher["config"]).write_text("")  # one's own comes first
    with pytest.raises(UserError, match="config configs/resnet18_real_imagenette.py: default_scope=None"):
        build_teacher(teacher, student)


def test_loss_is_the_cross_entropy_of_the_soft_labels(checkpoint):
    model = build_model(config(checkpoint)).train()
    images, samples = batch()
    losses = model(images, samples, mode="loss")
    assert set(losses) == {"loss_distill"}
    model.backbone.requires_grad_(False)
    soft = model.teacher.module(images).softmax(dim=1)
    assert not soft.requires_grad
    # batch norms in training mode use the batch's own statistics, so a second forward gives the same logits
    torch.testing.assert_close(losses["loss_distill"], functional.cross_entropy(model(images), soft))


def test_weights_of_the_parts(checkpoint):
    options = {"model.label_weight": 0.5, "model.distill_weight": 2.0, "model.temperature": 3.0}
    model = build_model(config(checkpoint, **options)).train()
    images, samples = batch()
    losses = model(images, samples, mode="loss")
    labels = torch.tensor([0, 1, 2, 0])
    logits = model(images)
    torch.testing.assert_close(losses["loss"], 0.5 * functional.cross_entropy(logits, labels))
    soft = (model.teacher.module(images) / 3).softmax(dim=1)
    torch.testing.assert_close(losses["loss_distill"], 2 * 9 * functional.cross_entropy(logits / 3, soft))


def test_the_student_is_the_plain_classifier(checkpoint):
    model = build_model(config(checkpoint))
    model.init_weights()
    plain_cfg = config(checkpoint)
    plain_cfg.model.type = "ImageClassifier"
    for key in ("teacher", "temperature", "label_weight", "distill_weight"):
        plain_cfg.model.pop(key, None)
    plain = build_model(plain_cfg)
    plain.load_state_dict(model.state_dict())
    images, _ = batch()
    assert torch.equal(plain(images), model.eval()(images))
    assert {n for n, _ in plain.named_parameters()} == {n for n, _ in model.named_parameters()}


def test_teacher_stays_as_it_was_through_training(checkpoint):
    model = build_model(config(checkpoint))
    model.init_weights()
    model.train()
    before = torch.load(checkpoint, weights_only=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    images, samples = batch()
    for _ in range(2):
        optimizer.zero_grad()
        model(images, samples, mode="loss")["loss_distill"].backward()
        optimizer.step()
    teacher = model.teacher.module
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    # DDP needs every parameter to take part
    assert all(p.grad is not None for p in model.parameters())


def test_autocast_reaches_teacher_and_student_and_the_loss_is_fp32(checkpoint):
    model = build_model(config(checkpoint)).train()
    images, samples = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.teacher(images).dtype == torch.bfloat16
        loss = model(images, samples, mode="loss")["loss_distill"]
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_same_seed_gives_the_student_that_a_run_without_teacher_has(checkpoint):
    cfg = config(checkpoint)
    plain = config(checkpoint)
    plain.model.type = "ImageClassifier"
    plain.model.pop("teacher")
    states = []
    for one in (cfg, plain):
        torch.manual_seed(5)
        model = build_model(one)
        model.init_weights()
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_stage_two_takes_over_stage_one(checkpoint):
    one = build_model(config(checkpoint, "resnet18_rebnn_imagenet_stage1.py"))
    one.init_weights()
    two = build_model(config(checkpoint))
    missing, unexpected = two.load_state_dict(one.state_dict(), strict=False)
    assert not missing and not unexpected
    name = "backbone.layer1.0.unit.conv"
    weight = one.get_submodule(name).weight
    assert torch.equal(two.get_submodule(name).weight, weight)
    torch.testing.assert_close(two.get_submodule(name).alpha.flatten(), weight.abs().mean(dim=(1, 2, 3)))


def test_torchvision_resnet34_gives_its_own_logits(tmp_path):
    from torchvision.models import resnet34

    torch.manual_seed(3)
    original = resnet34()
    for module in original.modules():  # no statistics of a fresh batch norm: they would hide an exchange
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    original.eval()
    path = tmp_path / "resnet34.pth"
    torch.save(original.state_dict(), path)
    cfg = read_config(CONFIGS / "resnet18_rebnn_imagenet_stage2.py", {"model.teacher.checkpoint": str(path)})
    teacher = build_teacher(cfg.model.teacher, build_model(cfg))
    images = torch.randn(2, 3, 64, 64)
    logits = original.double()(images.double())
    teacher.module.double()
    torch.testing.assert_close(teacher(images.double()), logits, rtol=1e-10, atol=1e-10)


def test_other_names_are_left_alone():
    state = {"backbone.conv1.weight": torch.zeros(1), "head.fc.weight": torch.zeros(1)}
    assert from_torchvision(state) is state


def test_teacher_from_a_config_file(tmp_path):
    file = CONFIGS / "resnet18_real_imagenette.py"
    student = build_model(config())
    torch.save(build_model(read_config(file)).state_dict(), tmp_path / "t.pth")
    teacher = build_teacher(dict(config=str(file), checkpoint=str(tmp_path / "t.pth")), student)
    assert isinstance(teacher, FrozenTeacher) and teacher.module.head.num_classes == 10
    other = build_model(config(**{"data_preprocessor.std": [1.0, 1.0, 1.0]}))
    with pytest.raises(ValueError, match="normalizes images with std=.*the same data_preprocessor"):
        build_teacher(dict(config=str(file), checkpoint=str(tmp_path / "t.pth")), other)


def test_bad_teachers(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match="teacher's checkpoint .*nowhere.pth is not a file.*torchvision"):
        build_model(config(tmp_path / "nowhere.pth")).init_weights()
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth does not fit the config's model"):
        build_model(config(tmp_path / "other.pth")).init_weights()
    cfg = config(checkpoint, **{"model.head.num_classes": 7})
    with pytest.raises(ValueError, match=r"student gives \(4, 7\), the teacher \(4, 3\)"):
        build_model(cfg)(*batch(), mode="loss")
    cfg.model.teacher = "resnet34"
    with pytest.raises(ValueError, match=r"teacher='resnet34': give dict\(config=..., checkpoint=...\)"):
        build_model(cfg)
    for option in ("distill_weight", "temperature"):
        for value in (0, float("nan"), "1"):
            with pytest.raises(ValueError, match=f"{option}=.* must be a finite number > 0"):
                build_model(config(checkpoint, **{f"model.{option}": value}))
    with pytest.raises(ValueError, match="label_weight=-1 must be a finite number >= 0"):
        build_model(config(checkpoint, **{"model.label_weight": -1}))


def test_weight_decay_of_stage_one_is_reactnets():
    from mmengine.optim import build_optim_wrapper

    cfg = config(None, "resnet18_rebnn_imagenet_stage1.py")
    model = build_model(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    decayed = {name for name, p in model.named_parameters() if decay[id(p)] > 0}
    # their rule: parameters of four dimensions, which their shifts, (1, C, 1, 1), are too
    expected = {n for n, p in model.named_parameters() if p.dim() == 4 or n.endswith(".shift")}
    assert decayed == expected and set(decay.values()) == {0.0, 1e-5}
    assert config().optim_wrapper.optimizer.weight_decay == 0 and "paramwise_cfg" not in config().optim_wrapper


def test_lighting_adds_a_multiple_of_the_components_in_the_images_own_channel_order():
    cfg = Config.fromfile(CONFIGS / "resnet18_rebnn_imagenet_stage2.py")
    steps = [step for step in cfg.train_dataloader.dataset.pipeline if step["type"] == "Lighting"]
    assert cfg.train_dataloader.dataset.pipeline[0].to_float32
    config()
    image = np.full((4, 4, 3), (250, 120, 5), np.float32)  # BGR
    np.random.seed(0)
    changed = TRANSFORMS.build(steps[0]).transform(dict(img=image))["img"]
    np.random.seed(0)
    drawn = np.random.normal(0, 0.1, 3)
    # AlexNet's values, rows R, G, B, in units of 0..1
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    rgb = 255 * vectors @ (drawn * np.array([0.2175, 0.0188, 0.0045]))
    np.testing.assert_allclose(changed - image, np.broadcast_to(rgb[::-1], image.shape), atol=1e-4)
    assert changed.dtype == np.float32
