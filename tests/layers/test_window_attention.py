"""torchvision's window attention: with its own layers ours computes what it does."""

import pytest
import torch
from torch import nn

from rebnn_mm.convert import binarize
from rebnn_mm.layers import binary_layers
from rebnn_mm.layers.window_attention import BinaryWindowAttention

swin = pytest.importorskip("torchvision.models.swin_transformer")


@pytest.mark.parametrize("kind", ["ShiftedWindowAttention", "ShiftedWindowAttentionV2"])
@pytest.mark.parametrize("shift", [[0, 0], [2, 1]])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (4, 4), (4, 12)])
def test_with_their_layers_it_computes_the_same(kind, shift, size):
    torch.manual_seed(0)
    theirs = getattr(swin, kind)(16, [4, 4], shift, 4).eval()
    nn.init.normal_(theirs.qkv.bias)
    ours = BinaryWindowAttention(theirs, theirs.qkv, theirs.proj).eval()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    x = torch.randn(2, *size, 16)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("scores", ["real", "binary"])
def test_a_swin_is_1_bit_but_for_its_ends(version, scores):
    block = swin.SwinTransformerBlock if version == 1 else swin.SwinTransformerBlockV2
    make = lambda: swin.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=3, block=block)  # noqa: E731
    real, model = make(), make()
    x = torch.randn(2, 3, 32, 32)
    report = binarize(model, sample=x, scores=scores)
    assert set(report.replaced) == set(binary_layers(model))
    assert {"features.1.0.attn.qkv", "features.1.0.attn.proj"} <= set(report.replaced)
    assert report.weights > 0.6
    assert not model.load_state_dict(real.state_dict(), strict=False).unexpected_keys
    model(x).square().sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in binary_layers(model).values())
    model.eval()(x)
