"""Stock detectors of mmdet, small, with their preset: they train, and their graphs give the same bits."""

import logging

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from rebnn_mm.copying import copy_model
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.layers import binary_layers

pytest.importorskip("mmdet.models")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of the stock models

SIZE = 64
# of the installed package: config, changes that make it small, parts that are to be graphs
STOCK = {
    "rtmdet/rtmdet_tiny_8xb32-300e_coco": (
        dict(backbone=dict(widen_factor=0.125, init_cfg=None), neck=dict(in_channels=[32, 64, 128], out_channels=32))
        | dict(bbox_head=dict(in_channels=32, feat_channels=32), data_preprocessor=dict(batch_augments=None)),
        ["backbone", "neck", *(f"bbox_head.{kind}_convs.{level}" for kind in ("cls", "reg") for level in range(3))],
    ),
    "yolox/yolox_s_8xb8-300e_coco": (
        dict(backbone=dict(widen_factor=0.125), neck=dict(in_channels=[32, 64, 128], out_channels=32))
        | dict(bbox_head=dict(in_channels=32, feat_channels=32), data_preprocessor=dict(batch_augments=None)),
        [
            *("backbone", "neck"),
            *(f"bbox_head.multi_level_{kind}_convs.{level}" for kind in ("cls", "reg") for level in range(3)),
        ],
    ),
    "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco": (
        dict(backbone=dict(depth=18, init_cfg=None, base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
        | dict(train_cfg=dict(rpn_proposal=dict(max_per_img=8)), test_cfg=dict(rpn=dict(max_per_img=8))),
        ["backbone", "neck"],
    ),
    "mask_rcnn/mask-rcnn_r50_fpn_1x_coco": (
        dict(backbone=dict(depth=18, init_cfg=None, base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
        | dict(train_cfg=dict(rpn_proposal=dict(max_per_img=8), rcnn=dict(sampler=dict(num=8))))
        | dict(test_cfg=dict(rpn=dict(max_per_img=8))),
        ["backbone", "neck", "roi_head.mask_head.convs"],
    ),
    "detr/detr_r50_8xb2-150e_coco": (
        dict(backbone=dict(depth=18, init_cfg=None, base_channels=16), neck=dict(in_channels=[128]))
        | dict(encoder=dict(num_layers=1), decoder=dict(num_layers=2), num_queries=100),
        ["backbone", "neck", "encoder.layers.0.ffn", "decoder.layers.0.ffn", "decoder.layers.1.ffn"],
    ),
}


@pytest.fixture
def scope():
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    DefaultScope.get_instance("test_detectors", scope_name="mmdet")
    yield
    DefaultScope._instance_dict.clear()


def built(name):
    import mmdet

    cfg = Config.fromfile(f"{mmdet.__path__[0]}/.mim/configs/{name}.py")
    cfg.merge_from_dict(dict(model=STOCK[name][0]))
    preset = "transformer" if name.startswith("detr") else "detector"
    model = dict(cfg.model, type="Binarized", base=cfg.model.type, binarize=dict(preset=preset))
    torch.manual_seed(0)
    return MODELS.build(model)


def batch(masks):
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(2, (3, SIZE, SIZE), num_items=[3, 2], num_classes=80, with_mask=masks)


@pytest.mark.slow
@pytest.mark.parametrize("name", STOCK)
def test_the_preset_trains_every_layer_and_exports_whole(tmp_path, scope, caplog, name):
    from rebnn_mm.workflows.detector_parts import detector_parts

    with caplog.at_level(logging.WARNING):
        model = built(name)
        model.init_weights()
        model.train()
        layers = binary_layers(model)
        assert all((layer.scale() > 0).all() for layer in layers.values())  # no initialiser took them for weights
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        trained = set()
        for _ in range(3):
            data = model.data_preprocessor(batch("mask" in name), True)
            loss, _ = model.parse_losses(model(**data, mode="loss"))
            optimizer.zero_grad()
            loss.backward()
            trained |= {key for key, layer in layers.items() if layer.weight.grad is not None}
            assert loss.isfinite()
            optimizer.step()
    assert trained == set(layers)
    assert "frozen" not in caplog.text and "gradient" not in caplog.text

    model = copy_model(model)
    pictures = torch.randint(0, 256, (2, 3, 128, 160), dtype=torch.uint8)
    parts = detector_parts(model, pictures)
    check = Check([torch.randn(1, 3, 64, 96), torch.randn(2, 3, 128, 160)], lambda m, x: m.extract_feat(x), exact=True)
    report = export_model(model, tmp_path / "m.rebnn", check=check, parts=parts)
    assert [part.name for part in parts] == STOCK[name][1]
    assert all("a graph of" in said for said in report.graphs), [
        said[:300] for said in report.graphs if "a graph of" not in said
    ]
    packed = load_model(tmp_path / "m.rebnn", model=built(name))
    assert sum(isinstance(module, GraphNetwork) for module in packed.modules()) == len(parts)
    data = model.data_preprocessor(batch(False), False)
    with torch.no_grad():
        for one, other in zip(model(**data, mode="predict"), packed(**data, mode="predict"), strict=True):
            a, b = one.pred_instances, other.pred_instances
            assert torch.equal(a.bboxes, b.bboxes) and torch.equal(a.scores, b.scores)
