"""Detectors whose FPN maps learn from a teacher's: the loss, what is saved, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.structures import DetDataSample
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch.nn import functional

from rebnn_mm.integrations.build import build_model, read_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
NARROW = {"model.backbone.base_channels": 8, "model.neck.in_channels": [8, 16, 32, 64]}


def teacher_config(**options):
    return read_config(CONFIGS / "faster_rcnn_real_r18_bccd.py", {**NARROW, **options}).model


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(1)
    model = MODELS.build(teacher_config())
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth"


def student(checkpoint, **options):
    teacher = dict(config=teacher_config(), checkpoint=str(checkpoint))
    options = {**NARROW, "model.teacher": dict(_delete_=True, **teacher), **options}
    return build_model(read_config(CONFIGS / "faster_rcnn_rebnn_r18_bccd_distill.py", options))


def batch():
    sample = DetDataSample(
        metainfo=dict(img_shape=(64, 96), pad_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))
    )
    boxes = torch.tensor([[8.0, 8, 40, 40], [50, 20, 90, 60]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)), [sample, sample]


def expected(model, images, kind):
    levels = []
    for mine, other in zip(model.extract_feat(images), model.teacher.module.extract_feat(images), strict=True):
        if kind == "l2":
            levels.append(functional.mse_loss(mine, other))
        else:
            levels.append((1 - (functional.normalize(mine) * functional.normalize(other)).sum(1)).mean())
    return sum(levels) / len(levels)


@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_the_detectors_losses_and_the_distance_of_the_maps(checkpoint, kind):
    model = student(checkpoint, **{"model.distill_kind": kind, "model.distill_weight": 0.5})
    model.init_weights()
    images, samples = batch()
    losses = model.train()(images, samples, mode="loss")
    assert {"loss_rpn_cls", "loss_cls", "loss_bbox", "loss_distill"} <= set(losses)
    torch.testing.assert_close(losses["loss_distill"], 0.5 * expected(model, images, kind))
    assert not model.neck._forward_hooks
    losses["loss_distill"].backward()
    assert all(p.grad is not None for p in model.backbone.parameters())
    assert all(p.grad is None for p in model.teacher.module.parameters())
    assert not any(module.training for module in model.teacher.module.modules())


def test_the_student_is_the_plain_detector(checkpoint):
    model = student(checkpoint)
    plain = build_model(read_config(CONFIGS / "faster_rcnn_rebnn_r18_bccd.py", NARROW))
    plain.load_state_dict(model.state_dict())
    assert {n for n, _ in plain.named_parameters()} == {n for n, _ in model.named_parameters()}
    images, samples = batch()
    first, second = (m.eval()(images, samples, mode="predict")[0].pred_instances.scores for m in (plain, model))
    assert torch.equal(first, second)


def test_a_single_stage_detector_learns_too(tmp_path):
    options = {**NARROW, "model.bbox_head.num_classes": 3, "model.bbox_head.stacked_convs": 1}
    real = {"model.backbone.conv_cfg": dict(type="Conv2d"), "model.neck.conv_cfg": None}
    config = CONFIGS / "retinanet_rebnn_r18_coco.py"
    theirs = read_config(config, {**options, **real})
    torch.save(build_model(theirs).state_dict(), tmp_path / "teacher.pth")
    mine = read_config(config, {**options, "model.type": "DistilledSingleStageDetector"})
    mine.model.teacher = dict(config=theirs.model.to_dict(), checkpoint=str(tmp_path / "teacher.pth"))
    model = build_model(mine)
    assert torch.isfinite(model.train()(*batch(), mode="loss")["loss_distill"])


def test_refusals(checkpoint, tmp_path):
    wide = teacher_config(
        **{
            "model.neck.out_channels": 32,
            "model.rpn_head.in_channels": 32,
            "model.roi_head.bbox_roi_extractor.out_channels": 32,
            "model.roi_head.bbox_head.in_channels": 32,
        }
    )
    torch.save(MODELS.build(wide).state_dict(), tmp_path / "wide.pth")
    teacher = dict(_delete_=True, config=wide, checkpoint=str(tmp_path / "wide.pth"))
    model = student(checkpoint, **{"model.teacher": teacher})
    with pytest.raises(ValueError, match=r"the student gives \(2, 96, .*the teacher \(2, 32, .*take another teacher"):
        model.train()(*batch(), mode="loss")
    assert not model.neck._forward_hooks
    for value in (0, float("nan"), "1"):
        with pytest.raises(ValueError, match="distill_weight=.* must be a finite number > 0"):
            student(checkpoint, **{"model.distill_weight": value})
    with pytest.raises(ValueError, match="distill_kind='l3' is not one of"):
        student(checkpoint, **{"model.distill_kind": "l3"})
    with pytest.raises(FileNotFoundError, match="teacher's checkpoint nowhere.pth is not a file"):
        student("nowhere.pth").init_weights()


def test_a_classifier_is_no_teacher_of_a_detector(checkpoint):
    teacher = dict(_delete_=True, config=str(CONFIGS / "resnet18_real_imagenette.py"), checkpoint=str(checkpoint))
    model = student(checkpoint, **{"model.teacher": teacher})
    with pytest.raises(ValueError, match="is for mmpretrain, the student for mmdet: a classifier learns from a"):
        model.init_weights()
