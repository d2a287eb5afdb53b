"""DeiT and Swin of MMPretrain as configs/ make them 1-bit, small: updates reach every layer, and the file is exact."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmpretrain.models")

from mmpretrain.structures import DataSample

from rebnn_mm.deploy import Check, export_model
from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.layers import binary_layers

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SMALL = dict(
    deit={
        "model.backbone.arch": dict(_delete_=True, embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
        "model.head.in_channels": 32,
    },
    swin={
        "model.backbone.arch": dict(_delete_=True, embed_dims=16, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8]),
        "model.head.in_channels": 128,
    },
)


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("name", "blocks"), [("deit", 2), ("swin", 8)])
def test_updates_reach_every_layer_and_the_file_is_exact(tmp_path, name, blocks):
    torch.manual_seed(0)
    model = build_model(read_config(CONFIGS / f"{name}_tiny_rebnn_imagenette.py", SMALL[name]))
    model.init_weights()
    layers = binary_layers(model)
    assert sum("blocks." in key or "layers." in key for key in layers) >= 4 * blocks and "head.fc" not in layers
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-3)
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    reached = set()
    for _ in range(2):
        loss = model(torch.randn(2, 3, 224, 224), samples, mode="loss")["loss"]
        optimizer.zero_grad()
        loss.backward()
        reached |= {key for key, layer in layers.items() if layer.weight.grad is not None}
        assert loss.isfinite()
        optimizer.step()
    assert reached == set(layers)
    report = export_model(model.eval(), tmp_path / "m.rebnn", check=Check([torch.randn(1, 3, 224, 224)], exact=True))
    assert any("a graph of" in said for said in report.graphs), report.graphs
