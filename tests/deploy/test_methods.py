"""Every method packs: what a file computes is what was trained, bit for bit."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.file.tensors import BinaryTensor
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.layers.modules import PackedConv2d, PackedLinear
from rebnn_mm.deploy.operation.bits import from_bits
from rebnn_mm.layers import binary_layers

METHODS = ("Sign", "XNOR", "BiReal", "IRNet", "ReAct", "ReCU", "ReBNN")
pytestmark = [pytest.mark.usefixtures("threads"), pytest.mark.slow]


def train(model, x):
    """A few updates, off-centre weights: signs of w and of w - mean differ, norms have seen data."""
    for layer in binary_layers(model).values():
        layer.weight.data.add_(0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        y = model.train()(x)
        sum(part.square().mean() for part in (y if isinstance(y, tuple) else (y,))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def own_model(method):
    conv, linear = MODELS.get(f"{method}Conv2d"), MODELS.get(f"{method}Linear")
    return nn.Sequential(
        conv(3, 8, 3, padding=1, padding_mode="reflect", stride=(1, 2), bias=True),
        nn.BatchNorm2d(8),
        conv(8, 8, 3, padding=1, groups=2, input_norm=True, shortcut=True),
        conv(8, 8, (3, 1), padding=(1, 0), groups=4, dilation=(2, 1), weight_only=True, bias=True),
        conv(8, 8, 3, weight_only=True, input_norm=True),
        conv(8, 8, 3, activation_only=True),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.BatchNorm1d(32),
        linear(32, 5, bias=True),
        linear(5, 4, weight_only=True),
    )


@pytest.mark.parametrize("parts", [None, []], ids=["graph", "layer by layer"])
@pytest.mark.parametrize("method", METHODS)
def test_layers_equal_the_trained_ones(method, parts, tmp_path):
    torch.manual_seed(0)
    model = train(own_model(method), torch.randn(4, 3, 20, 24))
    inputs = (torch.randn(2, 3, 21, 17), torch.randn(1, 3, 16, 16))
    export_model(model, tmp_path / "m.rebnn", check=Check(inputs, exact=True), parts=parts)
    packed = load_model(tmp_path / "m.rebnn", model=own_model(method))
    if parts is None:
        assert isinstance(packed, GraphNetwork)
        assert torch.equal(load_model(tmp_path / "m.rebnn")(inputs[0]), model(inputs[0]))
    else:
        assert isinstance(packed[0], PackedConv2d) and isinstance(packed[10], PackedLinear)
    for x in inputs:
        assert torch.equal(packed(x), model(x))
    tensors = read_file(tmp_path / "m.rebnn").tensors
    for name, layer in binary_layers(model).items():
        weight = tensors[f"{name}.weight"]
        if isinstance(weight, torch.Tensor):  # of a layer with real-valued inputs: the graph has its shape
            weight = BinaryTensor(weight, tuple(layer.weight.shape))
        assert torch.equal(from_bits(weight.bits, weight.shape), layer.binary_weight())
        if method != "Sign":
            assert torch.equal(tensors[f"{name}.alpha"].flatten(), layer.scale().flatten())


@pytest.mark.parametrize("method", METHODS)
def test_backbone_runs_fused_and_without_the_training_code(method, tmp_path):
    torch.manual_seed(0)
    net = ReBNNResNet(18, conv_cfg=dict(type=f"{method}Conv2d"), base_channels=8, stem="cifar", out_indices=(0, 3))
    train(net, torch.randn(4, 3, 32, 32))
    export_model(net, tmp_path / "m.rebnn", check=Check([torch.randn(1, 3, 32, 32)]))
    packed = load_model(tmp_path / "m.rebnn")  # no model given: torch alone runs it
    assert any(isinstance(module, GraphNetwork) for module in packed.modules()) and not binary_layers(packed)
    for size in ((2, 3, 32, 32), (1, 3, 19, 27)):
        x = torch.randn(size)
        for a, b in zip(net(x), packed(x), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(("act", "shift"), [("none", False), ("hardtanh", False), ("prelu", True), ("rprelu", False)])
def test_other_activations_pack_too(act, shift, tmp_path):
    def build():
        conv = dict(type="IRNetConv2d")
        return ReBNNResNet(18, conv_cfg=conv, base_channels=8, stem="cifar", act=act, shift=shift)

    torch.manual_seed(0)
    net = train(build(), torch.randn(2, 3, 32, 32))
    x = torch.randn(2, 3, 32, 32)
    export_model(net, tmp_path / "m.rebnn", check=Check([torch.randn(1, 3, 24, 24)]))
    assert torch.equal(load_model(tmp_path / "m.rebnn")(x)[0], net(x)[0])
    export_model(net, tmp_path / "m.rebnn", check=Check([torch.randn(1, 3, 24, 24)]), parts=[])
    packed = load_model(tmp_path / "m.rebnn", model=build())
    assert isinstance(packed, ReBNNResNet) and isinstance(packed.layer1[0].unit.conv, PackedConv2d)
    assert torch.equal(packed(x)[0], net(x)[0])


def test_a_method_of_ones_own_packs_unless_it_changes_the_forward(tmp_path):
    from rebnn_mm.layers import BinaryConv2d

    class Doubled(BinaryConv2d):
        def _scale(self):
            return torch.full((self.out_channels, 1, 1, 1), 2.0)

    class OwnSum(Doubled):
        def _scaled_conv(self, x):
            return super()._scaled_conv(x) + 1

    x = torch.randn(1, 3, 6, 6)
    export_model(nn.Sequential(Doubled(3, 4, 3)), tmp_path / "m.rebnn", check=Check([x]))
    with pytest.raises(ValueError, match="0 is a OwnSum with a forward of its own"):
        export_model(nn.Sequential(OwnSum(3, 4, 3)), tmp_path / "m.rebnn")
