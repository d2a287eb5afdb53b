"""Transformers made 1-bit by rule, packed from their graphs: the trained bits, for any batch."""

import pytest
import torch
from graph_toys import names, settle
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, export_model, load_model


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def vision_transformer():
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)


def swin(version):
    theirs = pytest.importorskip("torchvision.models.swin_transformer")
    block = theirs.SwinTransformerBlock if version == 1 else theirs.SwinTransformerBlockV2
    merging = theirs.PatchMerging if version == 1 else theirs.PatchMergingV2
    return theirs.SwinTransformer(
        [4, 4], 32, [2, 2], [2, 4], [4, 4], num_classes=5, block=block, downsample_layer=merging
    )


def mmpretrain(name, **options):
    pytest.importorskip("mmpretrain.models")
    DefaultScope.get_instance("test_transformers", scope_name="mmpretrain")
    try:
        return nn.Sequential(MODELS.build(dict(type=f"mmpretrain.{name}", **options)), _Last())
    finally:
        DefaultScope._instance_dict.clear()


class _Last(nn.Module):
    """Scores from the last of several feature maps."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 5)

    def forward(self, maps):
        x = maps[-1]
        return self.linear(x if x.dim() == 2 else x.mean((2, 3)))


VIT = dict(embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=96)
NETWORKS = {
    "torchvision's ViT": vision_transformer,
    "torchvision's Swin": lambda: swin(1),
    "torchvision's Swin v2": lambda: swin(2),
    "MMPretrain's ViT": lambda: mmpretrain("VisionTransformer", arch=VIT, img_size=32, patch_size=8),
}


def trained(make, **rule):
    """The 1-bit network as training leaves it: its norms have seen images."""
    torch.manual_seed(0)
    model = make()
    binarize(model.train(), **rule)
    for _ in range(3):
        model(torch.randn(4, 3, 32, 32))
    return settle(model)


@pytest.mark.slow
@pytest.mark.parametrize("scores", ["real", "binary"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_batch_gives_the_trained_networks_bits(name, scores, packed):
    model = trained(NETWORKS[name], scores=scores)
    traced, network = packed(model, torch.randn(2, 3, 32, 32))
    assert names(traced).count("rebnn.binary_linear") >= 8
    for batch in (1, 2, 3):
        x = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(network(x), model(x), rtol=0, atol=0)


@pytest.mark.slow
def test_a_network_that_reads_its_batch_computes_images_one_by_one(tmp_path):
    arch = dict(embed_dims=32, depths=[2, 2], num_heads=[1, 2])
    model = trained(lambda: mmpretrain("SwinTransformer", arch=arch, img_size=32, window_size=4, out_indices=(1,)))
    x = torch.randn(1, 3, 32, 32)
    export_model(model, tmp_path / "m.rebnn", check=Check([x]))
    network = load_model(tmp_path / "m.rebnn")
    assert torch.equal(network(x), model(x))
    x = torch.randn(3, 3, 32, 32)
    found = network(x)
    assert network.single and all(torch.equal(found[i : i + 1], model(x[i : i + 1])) for i in range(3))


def test_real_valued_attention_of_torch_is_captured_as_it_trains(tmp_path):
    """In evaluation torch's layer takes a fused kernel; its bits are not those of training, which a graph has."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    layer.linear1 = MODELS.build(dict(type="ReBNNLinear", in_features=32, out_features=64))
    model, x = nn.Sequential(layer, nn.Linear(32, 5)).eval(), torch.randn(2, 7, 32)
    report = export_model(model, tmp_path / "m.rebnn", check=Check([x], exact=True))
    assert not report.differences
    assert torch.backends.mha.get_fastpath_enabled()
    torch.testing.assert_close(load_model(tmp_path / "m.rebnn")(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what torch's tools say of each other, and of sizes that are checked
@pytest.mark.parametrize("name", ["torchvision's ViT", "torchvision's Swin"])
def test_a_packed_transformer_is_recorded_by_torchs_tools(name, packed):
    model, x = trained(NETWORKS[name]), torch.randn(2, 3, 32, 32)
    network = packed(model, x)[1]
    expected = network(x)
    assert torch.equal(torch.export.export(network, (x,)).module()(x), expected)
    assert torch.equal(torch.compile(network, backend="eager")(x), expected)
    assert torch.equal(torch.jit.trace(network, x)(x), expected)
