"""Families of torchvision, small: made 1-bit by rule, trained for a step, exported, loaded, equal."""

import pytest
import torch

from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.layers import binary_layers

models = pytest.importorskip("torchvision.models")
pytestmark = pytest.mark.slow


def convnext():
    from torchvision.models.convnext import CNBlockConfig

    return models.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=5)


def swin(block, merging):
    from torchvision.models import swin_transformer as theirs

    kinds = dict(block=getattr(theirs, block), downsample_layer=getattr(theirs, merging))
    return models.SwinTransformer([4, 4], 16, [1, 2], [1, 2], [4, 4], num_classes=5, **kinds)


# model, side of its images, 1-bit layers
FAMILIES = {
    "resnet": (lambda: models.resnet18(num_classes=5), 32, 19),
    "resnext": (lambda: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], 5, groups=8, width_per_group=4), 32, 16),
    "densenet": (lambda: models.DenseNet(8, (2, 2), 16, num_classes=5), 32, 9),
    "googlenet": (lambda: models.GoogLeNet(5, init_weights=False), 64, 62),
    "inception": (lambda: models.Inception3(5, aux_logits=False, init_weights=False), 96, 93),
    "mobilenet_v2": (lambda: models.mobilenet_v2(num_classes=5, width_mult=0.25), 32, 34),
    "mobilenet_v3": (lambda: models.mobilenet_v3_small(num_classes=5, width_mult=0.5), 32, 23),
    "shufflenet": (lambda: models.shufflenet_v2_x0_5(num_classes=5), 32, 36),
    "efficientnet": (lambda: models.efficientnet_b0(num_classes=5), 32, 32),
    "regnet": (lambda: models.regnet_y_400mf(num_classes=5), 32, 52),
    "squeezenet": (lambda: models.squeezenet1_1(num_classes=5), 64, 24),
    "vgg": (lambda: models.vgg11_bn(num_classes=5), 32, 9),
    "convnext": (convnext, 32, 5),
    "vit": (lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5), 32, 12),
    "swin": (lambda: swin("SwinTransformerBlock", "PatchMerging"), 32, 13),
    "swin_v2": (lambda: swin("SwinTransformerBlockV2", "PatchMergingV2"), 32, 13),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_made_1_bit_trained_exported_and_equal(name, tmp_path):
    torch.manual_seed(0)
    make, side, count = FAMILIES[name]
    model = make()
    report = binarize(model)
    layers = binary_layers(model)
    assert len(layers) == len(report.replaced) == count
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):  # a residual branch may start at zero, and a step ends that
        outputs = model(torch.randn(4, 3, side, side))
        scores = [y for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if y is not None]
        loss = sum((y * torch.randn_like(y)).mean() for y in scores)
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    assert [key for key, layer in layers.items() if layer.weight.grad is None or not layer.weight.grad.any()] == []
    model.eval()
    x = torch.randn(2, 3, side, side)
    exported = export_model(model, tmp_path / "m.rebnn", check=Check([x, x[:1]]))
    assert "the whole model: a graph of" in str(exported.graphs)
    assert all(difference.relative < 1e-4 for difference in exported.differences)
    assert load_model(tmp_path / "m.rebnn")(x[:1]).shape == (1, 5)
