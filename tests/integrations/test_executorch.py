"""What a detector's program tells of its boxes, without ExecuTorch; tests/deploy/targets/executorch runs programs."""

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet")

from rebnn_mm.deploy.file.card import ModelCard  # noqa: E402
from rebnn_mm.errors import UserError  # noqa: E402
from rebnn_mm.integrations import executorch  # noqa: E402
from rebnn_mm.integrations.build import build_model, read_config  # noqa: E402
from rebnn_mm.integrations.executorch import decoding_of, export_detector, largest_size  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "configs"
RTMDET, FASTER = "rtmdet_rebnn_r18_bccd", "faster_rcnn_rebnn_r18_demo"


def model_of(config, options=None):
    return build_model(read_config(CONFIGS / f"{config}.py", options))


def test_the_card_has_rtmdets_points_and_its_test_cfg():
    found = decoding_of(model_of(RTMDET))
    levels = [dict(stride=[float(n)] * 2, priors=[[0.0, 0.0]]) for n in (8, 16, 32)]
    assert found == dict(
        coder="distance", levels=levels, means=[], stds=[], sigmoid=True, factors=False, classes=3, score_thr=0.05,
        nms_pre=1000, iou_threshold=0.6, max_per_img=100, min_bbox_size=0.0, regions=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "options", "sentence"),
    [
        (RTMDET, {"model.test_cfg.nms.type": "soft_nms"}, "asks for non-maximum suppression 'soft_nms'; known is"),
        (RTMDET, {"model.test_cfg.nms.class_agnostic": True}, "suppression over all classes at once; known is"),
        (RTMDET, {"model.test_cfg.nms.max_num": 5}, "suppression with max_num; known is"),
        (RTMDET, {"model.bbox_head.bbox_coder.clip_border": False}, "writes boxes in a way .DistancePointBBoxCoder, "),
        (FASTER, {"model.test_cfg.rcnn.nms.type": "soft_nms"}, "the RoI head asks for .*'soft_nms'"),
        (FASTER, {"model.roi_head.bbox_roi_extractor.roi_layer.pool_mode": "max"}, "reads regions or decodes boxes in"),
        (
            FASTER,
            {"model.roi_head.bbox_head.loss_cls": dict(type="SeesawLoss", num_classes=4)},
            "reads regions or decodes boxes in another way",
        ),
        (FASTER, {"model.roi_head.type": "PISARoIHead"}, "has a PISARoIHead; the C.. library knows StandardRoIHead"),
    ],
)
def test_what_the_library_does_not_decode_is_refused(config, options, sentence):
    with pytest.raises(UserError, match=sentence):
        decoding_of(model_of(config, options))


def test_what_is_no_detector_and_sizes_that_no_program_has_are_refused(tmp_path):
    with pytest.raises(UserError, match="Linear is no one-stage detector with a neck"):
        decoding_of(nn.Linear(2, 2))
    with pytest.raises(UserError, match="multiples of 32"):
        export_detector(tmp_path / "a.rebnn", tmp_path / "a.pte", (100, 160))


@pytest.mark.parametrize(("kinds", "factors"), [(2, False), (3, True)])
def test_maps_tell_whether_scores_have_a_factor(kinds, factors):
    decoding = decoding_of(model_of(RTMDET))
    maps = [torch.zeros(1, channels, 4, 4) for channels in (3, 4, 1)[:kinds] for _ in range(3)]
    assert executorch._with_factors(decoding, maps)["factors"] is factors
    for wrong in (maps[:-1], maps[:3] * kinds, [*maps, maps[0]]):
        with pytest.raises(UserError, match="the head gives .* maps of .* channels; the C.. library reads"):
            executorch._with_factors(decoding, wrong)


def card(*steps):
    return ModelCard(config=dict(test_pipeline=[dict(type="LoadImageFromFile"), *steps]))


def test_the_largest_size_is_that_of_the_test_pipeline():
    assert largest_size(card(dict(type="Resize", scale=(1333, 800), keep_ratio=True))) == (1344, 1344)
    assert largest_size(card(dict(type="Resize", scale=(500, 300)))) == (320, 512)
    with pytest.raises(UserError, match="names no size of images: give --size H W or --max-size H W"):
        largest_size(card())
