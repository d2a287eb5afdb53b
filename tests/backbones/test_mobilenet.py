import pytest
import torch

from rebnn_mm.backbones import ReBNNMobileNet
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.layers import ReBNNConv2d, binary_layers


def test_strides_widths_and_odd_sizes():
    net = ReBNNMobileNet(base_channels=8, out_indices=(0, 1, 2, 3, 4))
    assert len(binary_layers(net)) == 26
    maps = net(torch.randn(2, 3, 65, 97))
    assert [m.shape[1] for m in maps] == [16, 32, 64, 128, 256]
    assert [tuple(m.shape[2:]) for m in maps] == [(33, 49), (17, 25), (9, 13), (5, 7), (3, 4)]


def test_a_block_that_doubles_adds_its_input_to_both_halves():
    torch.manual_seed(0)
    net = ReBNNMobileNet(base_channels=8, blocks=(1,), act="none").eval()
    unit, inside = net.layer1[0].pointwise, {}
    unit.register_forward_pre_hook(lambda module, args: inside.update(x=args[0]))
    torch.nn.init.zeros_(unit.norm.weight)
    (y,) = net(torch.randn(2, 3, 16, 16))
    assert torch.equal(y, torch.cat([inside["x"], inside["x"]], dim=1))


def test_the_twin_has_the_same_structure():
    net, twin = ReBNNMobileNet(base_channels=8), ReBNNMobileNet(dict(type="Conv2d"), base_channels=8)
    assert not binary_layers(twin)
    assert {k for k in net.state_dict() if not k.endswith((".alpha", ".gamma"))} == set(twin.state_dict())


def test_frozen_stages_stay_frozen_and_gradients_reach_the_others():
    torch.manual_seed(0)
    net = ReBNNMobileNet(base_channels=8, frozen_stages=1, norm_eval=True).train()
    assert not any(p.requires_grad for p in [*net.stem.parameters(), *net.layer1.parameters()])
    net(torch.randn(4, 3, 64, 64))[0].square().mean().backward()
    layers = {name: layer for name, layer in binary_layers(net).items() if not name.startswith("layer1.")}
    assert len(layers) == 24 and all(layer.weight.grad.abs().sum() > 0 for layer in layers.values())
    assert all(isinstance(layer, ReBNNConv2d) for layer in layers.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ReBNNConv2d", "ReActConv2d"])
def test_packed_it_has_the_trained_bits(tmp_path, method):
    torch.manual_seed(0)
    net = ReBNNMobileNet(dict(type=method), base_channels=8).train()
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(4, 3, 64, 64))
    report = export_model(net.eval(), tmp_path / "m.rebnn", check=Check([torch.randn(1, 3, 64, 96)], exact=True))
    assert any("26 of them 1-bit" in said for said in report.graphs), report.graphs
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.rebnn")(x)[0], net(x)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(blocks=(1, 0)), r"blocks=\(1, 0\): a number of blocks, at least 1"),
        (dict(blocks=()), r"blocks=\(\)"),
        (dict(out_indices=(5,)), r"at least one of the stages 0, 1, 2, 3, 4$"),
        (dict(frozen_stages=6), r"0 \(stem\) or 1..5"),
        (dict(act="relu"), "act='relu'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ReBNNMobileNet(**options)
