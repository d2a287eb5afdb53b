"""The one-stage detectors of configs/: they train whole, pack whole, and RTMDet reads images of its configs' size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.structures import DetDataSample
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData

from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.integrations.packed import load_packed_model
from rebnn_mm.integrations.samples import data_sample
from rebnn_mm.layers import binary_layers
from rebnn_mm.workflows.demo_data import CLASSES, make_demo_data
from rebnn_mm.workflows.export import export_config

pytestmark = [
    pytest.mark.usefixtures("threads"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),  # mmdet's points
]
CONFIGS = Path(__file__).resolve().parents[3] / "configs"
NARROW = {
    "model.backbone.base_channels": 16,
    "model.neck.out_channels": 32,
    "model.bbox_head.in_channels": 32,
    "model.bbox_head.feat_channels": 32,
}
# name of a config, its levels, and the predicting layers of its head
HEADS = [
    ("rtmdet_rebnn_r18_bccd", 3, ("rtm_cls", "rtm_reg")),
    ("rtmdet_rebnn_r18_bccd_stride4", 4, ("rtm_cls", "rtm_reg")),
    ("fcos_rebnn_r18_bccd", 3, ("conv_cls",)),
    ("atss_rebnn_r18_bccd", 3, ("atss_cls",)),
    ("retinanet_rebnn_r18_bccd", 3, ("retina_cls",)),
]


def built(name="rtmdet_rebnn_r18_bccd"):
    torch.manual_seed(0)
    narrow = {**NARROW, "model.neck.in_channels": [16, 32, 64, 128] if "stride4" in name else [32, 64, 128]}
    if name.startswith("rtmdet"):
        narrow["model.bbox_head.act_cfg.num_parameters"] = 32
    cfg = read_config(CONFIGS / f"{name}.py", narrow)
    return build_model(cfg), cfg


def parts(name, levels):
    """What the file of a detector has as graphs: each level's towers where norms are its own, else one for all."""
    towers = [f".{level}" for level in range(levels)] if name.startswith("rtmdet") else [""]
    return {"backbone", "neck", *(f"bbox_head.{kind}_convs{tower}" for kind in ("cls", "reg") for tower in towers)}


def trained(model, steps=3):
    """``model`` after some updates on one picture with three boxes, and the layers that had a gradient."""
    model.init_weights()
    model.train()
    picture = torch.randint(0, 256, (3, 128, 160), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sample = DetDataSample(metainfo=dict(img_shape=(128, 160), ori_shape=(128, 160), scale_factor=(1.0, 1.0)))
    boxes = torch.tensor([[8.0, 8, 40, 40], [70, 20, 150, 110], [20, 60, 36, 80]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1, 2]))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    reached = set()
    for _ in range(steps):
        data = model.data_preprocessor(dict(inputs=[picture] * 2, data_samples=[sample] * 2), True)
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        reached |= {name for name, layer in binary_layers(model).items() if layer.weight.grad.abs().sum() > 0}
        assert loss.isfinite()
        optimizer.step()
    return model.eval(), reached


def test_backbone_neck_and_one_shared_tower_are_1_bit():
    names = set(binary_layers(built()[0]))
    assert sum(name.startswith("backbone.layer") for name in names) == 16
    assert {name for name in names if name.startswith("neck.")} == {
        f"neck.fpn_convs.{level}.conv" for level in range(3)
    }
    # mmdet lets the levels share their convolutions, so each has one name
    head = {f"bbox_head.{kind}_convs.0.{layer}.conv" for kind in ("cls", "reg") for layer in range(2)}
    assert {name for name in names if name.startswith("bbox_head.")} == head


def test_the_twin_holds_the_same_weights():
    own = {key for key in built()[0].state_dict() if not key.endswith((".alpha", ".gamma"))}
    assert own == set(built("rtmdet_real_r18_bccd")[0].state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "levels", "predicting"), HEADS, ids=[name for name, *_ in HEADS])
def test_updates_reach_every_layer_and_the_packed_detector_finds_the_same_boxes(tmp_path, name, levels, predicting):
    model, cfg = built(name)
    model, reached = trained(model)
    assert reached == set(binary_layers(model))
    for part in predicting:  # so that there are boxes to compare
        for key, weight in getattr(model.bbox_head, part).named_parameters():
            if key.endswith("weight"):
                torch.nn.init.normal_(weight, std=0.1)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "m.pth")
    report = export_config(cfg, tmp_path / "m.pth", tmp_path / "m.rebnn")
    assert {said.split(":")[0] for said in report.graphs if "a graph of" in said} == parts(name, levels)
    packed = load_packed_model(tmp_path / "m.rebnn")
    assert sum(isinstance(part, GraphNetwork) for part in packed.modules()) == len(parts(name, levels))
    picture = torch.randint(0, 256, (3, 192, 160), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = []
    for detector in (model, packed):
        data = dict(inputs=[picture], data_samples=[data_sample("mmdet", (192, 160))])
        with torch.no_grad():
            found.append(detector.test_step(data)[0].pred_instances)
    assert len(found[0]) > 10
    assert torch.equal(found[0].bboxes, found[1].bboxes) and torch.equal(found[0].labels, found[1].labels)


@pytest.mark.slow
@pytest.mark.parametrize("size", [320, 640])
def test_images_are_of_the_size_in_the_name(tmp_path, size):
    make_demo_data(tmp_path, train=2, test=1)
    cfg = read_config(CONFIGS / f"rtmdet_rebnn_r18_voc07_{size}.py", {"data_root": f"{tmp_path}/VOCdevkit/"})
    shapes = {}
    for split in ("train", "val"):
        dataset = cfg[f"{split}_dataloader"].dataset
        dataset.metainfo = dict(classes=CLASSES)
        dataset.filter_cfg = None
        shapes[split] = tuple(DATASETS.build(dataset)[0]["inputs"].shape)
    # drawn pictures are 160x120
    assert shapes == {"train": (3, size, size), "val": (3, size * 3 // 4, size)}
