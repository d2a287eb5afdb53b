"""Stock networks of MMPretrain, small: all that is 1-bit trains, whatever the layout and the norms."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from rebnn_mm.convert import binarize
from rebnn_mm.layers import binary_layers

pytest.importorskip("mmpretrain.models")

VIT = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
SWIN = dict(embed_dims=8, depths=[2, 2], num_heads=[1, 2])
MIXER = dict(embed_dims=16, num_layers=2, tokens_mlp_dims=8, channels_mlp_dims=32)
# options, size of the image, 1-bit layers
STOCK = {
    "VisionTransformer": (dict(arch=VIT, img_size=32, patch_size=8), 32, 8),
    "SwinTransformer": (dict(arch=SWIN, img_size=64, window_size=4, out_indices=(1,)), 64, 17),
    "ConvNeXt": (dict(arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 16])), 64, 11),
    "MlpMixer": (dict(arch=MIXER, img_size=32, patch_size=8), 32, 8),
    "MobileNetV2": (dict(widen_factor=0.25), 64, 34),
}


@pytest.mark.parametrize("name", STOCK)
def test_stock_backbones_train_and_run(name):
    DefaultScope.get_instance("test_stock", scope_name="mmpretrain")
    torch.manual_seed(0)
    options, size, expected = STOCK[name]
    try:
        body = MODELS.build(dict(type=f"mmpretrain.{name}", **options))
    finally:
        DefaultScope._instance_dict.clear()
    body.init_weights()
    model = nn.ModuleDict(dict(body=body, head=nn.Linear(4, 4)))
    binarize(model)
    layers = binary_layers(model)
    assert len(layers) == expected, list(layers)
    x = (
        torch.randn(2, 3, 64, 64)
        if name in ("SwinTransformer", "ConvNeXt", "MobileNetV2")
        else torch.randn(2, 3, 32, 32)
    )
    y = body(x)[-1]
    (y * torch.randn_like(y)).sum().backward()
    assert [n for n, layer in layers.items() if layer.weight.grad is None or not layer.weight.grad.abs().sum()] == []
    body.eval()  # returns nothing in some of them
    assert body(x)[-1].isfinite().all()


def test_bits_in_the_scores_of_a_vision_transformer():
    body = MODELS.get("mmpretrain.VisionTransformer")
    options = STOCK["VisionTransformer"][0]
    model = nn.ModuleDict(dict(body=body(**options), head=nn.Linear(4, 4)))
    binarize(model, scores="binary")
    seen = []
    attention = model["body"].layers[0].attn
    attention.proj.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    model["body"](torch.randn(2, 3, 32, 32))
    assert torch.equal(seen[0], seen[0].round())  # sums of signs
