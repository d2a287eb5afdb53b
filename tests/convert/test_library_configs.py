"""``base='LIBRARY::CONFIG'``: the model of a config that a library ships, made 1-bit in one line."""

import pytest

pytest.importorskip("mmdet")

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from rebnn_mm.convert.stock import expand_stock
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.build import read_config
from rebnn_mm.layers import binary_layers

RETINANET = "mmdet::_base_/models/retinanet_r50_fpn.py"
SMALL = dict(
    backbone=dict(depth=18, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512]),
    bbox_head=dict(num_classes=3, anchor_generator=dict(_delete_=True, type="AnchorGenerator", strides=[8])),
)


def test_own_keys_change_the_librarys_model():
    model = expand_stock(dict(type="Binarized", base=RETINANET, binarize=dict(preset="detector"), **SMALL))
    assert model.type == "Binarized" and model.base == "RetinaNet" and model.binarize == dict(preset="detector")
    assert model.backbone.depth == 18 and model.backbone.type == "ResNet" and model.backbone.init_cfg is None
    assert model.bbox_head.anchor_generator == dict(type="AnchorGenerator", strides=[8])
    assert model.test_cfg.nms.iou_threshold == 0.5  # as attributes, which mmdet reads


def test_a_stage_of_a_list_is_changed_by_its_number():
    heads = {str(stage): dict(num_classes=3) for stage in range(3)}
    model = expand_stock(dict(base="mmdet::_base_/models/cascade-rcnn_r50_fpn.py", roi_head=dict(bbox_head=heads)))
    assert [head.num_classes for head in model.roi_head.bbox_head] == [3, 3, 3]
    assert [head.type for head in model.roi_head.bbox_head] == ["Shared2FCBBoxHead"] * 3


def test_what_names_no_config_stays():
    cfg = dict(type="Binarized", base="RPNHead", layers=[dict(base="mmdet.RPNHead"), (1, "a::b")])
    assert expand_stock(cfg) is cfg


def test_a_part_within_a_model_is_found():
    cfg = expand_stock(dict(type="Distilled", teachers=[dict(type="Binarized", base=RETINANET)]))
    assert cfg.teachers[0].base == "RetinaNet" and cfg.teachers[0].bbox_head.num_classes == 80


@pytest.mark.slow
def test_it_builds_through_the_registry_alone_and_is_written_out_where_a_config_is_read(tmp_path):
    init_default_scope("mmdet")
    small = dict(SMALL, bbox_head=dict(num_classes=3))
    model = dict(type="Binarized", base=RETINANET, binarize=dict(preset="detector"), **small)
    layers = binary_layers(MODELS.build(ConfigDict(model)))
    assert len(layers) > 20
    path = tmp_path / "mine.py"
    Config(dict(default_scope="mmdet", model=model)).dump(path)
    cfg = read_config(path, {"model.backbone.depth": 18})
    assert cfg.model.base == "RetinaNet" and "::" not in cfg.pretty_text
    assert binary_layers(MODELS.build(cfg.model)).keys() == layers.keys()


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nowhere::a.py", "nowhere, which is not installed"),
        ("mmdet::nowhere.py", "mmdet ships no such config"),
        ("mmdet::retinanet/nowhere.py", "mmdet ships no such config"),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco", "mmdet ships no such config"),
        ("mmdet::_base_/default_runtime.py", "holds no model"),
    ],
)
def test_a_base_that_is_not_there_is_refused(base, message):
    with pytest.raises(UserError, match=message):
        expand_stock(dict(type="Binarized", base=base))
