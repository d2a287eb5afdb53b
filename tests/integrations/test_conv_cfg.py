"""``conv_cfg=dict(type='ReBNNConv2d')`` in modules of mmdet and mmpretrain that know nothing of it."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip("mmdet")
pytest.importorskip("mmpretrain")

from mmdet.utils import register_all_modules as register_mmdet
from mmpretrain.utils import register_all_modules as register_mmpretrain

import rebnn_mm  # noqa: F401
from rebnn_mm.layers import binary_layers

register_mmdet(init_default_scope=False)
register_mmpretrain(init_default_scope=False)
ONE_BIT = dict(type="ReBNNConv2d")


@pytest.mark.parametrize(
    ("scope", "cfg", "shapes", "layers"),
    [
        ("mmdet", dict(type="ResNet", depth=18, base_channels=8), [(2, 3, 64, 64)], 20),
        ("mmpretrain", dict(type="ResNet", depth=18, stem_channels=8, base_channels=8), [(2, 3, 64, 64)], 20),
        ("mmpretrain", dict(type="MobileNetV2", widen_factor=0.25), [(2, 3, 64, 64)], 52),
        ("mmdet", dict(type="FPN", in_channels=[8, 16], out_channels=8, num_outs=2), [(1, 8, 8, 8), (1, 16, 4, 4)], 4),
        (
            "mmdet",
            dict(type="PAFPN", in_channels=[8, 16], out_channels=8, num_outs=2),
            [(1, 8, 8, 8), (1, 16, 4, 4)],
            6,
        ),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else None,
)
def test_builds_and_passes_gradients(scope, cfg, shapes, layers):
    init_default_scope(scope)
    torch.manual_seed(0)
    module = MODELS.build(dict(cfg, conv_cfg=ONE_BIT))
    module.train()  # returns None in some backbones
    found = binary_layers(module)
    assert len(found) == layers
    inputs = [torch.randn(shape) for shape in shapes]
    outputs = module(inputs if cfg["type"].endswith("FPN") else inputs[0])
    sum(out.square().mean() for out in outputs).backward()
    assert all(layer.alpha.grad is not None for layer in found.values())
