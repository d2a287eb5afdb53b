import pytest
import torch
from torch import nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.backbones.blocks import BinaryUnit
from rebnn_mm.estimators import ClippedSTE
from rebnn_mm.layers import ChannelShift, ReBNNConv2d, RPReLU, binary_layers


@pytest.mark.parametrize(("depth", "layers", "expansion"), [(18, 16, 1), (34, 32, 1), (50, 48, 4)])
def test_depths_odd_sizes_and_all_outputs(depth, layers, expansion):
    net = ReBNNResNet(depth, base_channels=8, out_indices=(0, 1, 2, 3))
    assert len(binary_layers(net)) == layers
    maps = net(torch.randn(2, 3, 65, 97))
    assert [m.shape[1] for m in maps] == [8 * expansion * 2**i for i in range(4)]
    assert [tuple(m.shape[2:]) for m in maps] == [(17, 25), (9, 13), (5, 7), (3, 4)]


def test_the_resnet_20_of_papers_on_cifar_has_three_stages():
    net = ReBNNResNet(20, base_channels=16, stem="cifar", conv_cfg=dict(type="Conv2d"))
    (last,) = net(torch.randn(2, 3, 32, 32))
    assert last.shape == (2, 64, 8, 8)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convs) == 19  # and the classifier: 20 layers
    with pytest.raises(ValueError, match=r"at least one of the stages 0, 1, 2$"):
        ReBNNResNet(20, out_indices=(3,))
    with pytest.raises(ValueError, match=r"0 \(stem\) or 1..3"):
        ReBNNResNet(20, frozen_stages=4)


def test_twin_has_the_same_structure_and_no_binary_layer():
    twin = ReBNNResNet(18, conv_cfg=dict(type="Conv2d"), base_channels=8)
    net = ReBNNResNet(18, base_channels=8)
    assert not binary_layers(twin)
    own = {k for k in net.state_dict() if not k.endswith((".alpha", ".gamma"))}
    assert own == set(twin.state_dict())
    assert not net.load_state_dict(twin.state_dict()).missing_keys


def test_frozen_stages_and_norm_eval_survive_train():
    net = ReBNNResNet(18, base_channels=8, frozen_stages=1, norm_eval=True).train()
    assert not any(p.requires_grad for p in [*net.stem.parameters(), *net.layer1.parameters()])
    assert all(p.requires_grad for p in net.layer2.parameters())
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert net.layer2.training


def test_stage_one_checkpoint_loads_through_init_cfg(tmp_path):
    stage1 = ReBNNResNet(18, conv_cfg=dict(type="ReBNNConv2d", activation_only=True), base_channels=8)
    stage1.init_weights()
    torch.save(dict(state_dict={f"backbone.{k}": v for k, v in stage1.state_dict().items()}), tmp_path / "s1.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "s1.pth"), prefix="backbone.")
    net = ReBNNResNet(18, base_channels=8, init_cfg=init)
    net.init_weights()
    conv, loaded = net.layer1[0].unit.conv, stage1.layer1[0].unit.conv
    assert isinstance(conv, ReBNNConv2d)
    assert torch.equal(conv.weight, loaded.weight)
    torch.testing.assert_close(conv.alpha.flatten(), loaded.weight.abs().mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth=19), "depth=19"),
        (dict(stem="tiny"), "stem='tiny'"),
        (dict(out_indices=(4,)), "out_indices"),
        (dict(frozen_stages=5), "frozen_stages=5"),
        (dict(norm_cfg=dict(type="LN")), "norm_cfg type 'LN'"),
        (dict(norm_cfg="BN"), r"norm_cfg='BN': a dict is needed with a type, as dict\(type='BN'\)"),
        (dict(conv_cfg=dict(kind="ReBNNConv2d")), "conv_cfg=.*: a dict is needed with a type"),
        (dict(act="relu"), "act='relu': .*'hardtanh', 'none', 'prelu', 'rprelu'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ReBNNResNet(**options)


@pytest.mark.parametrize(
    ("act", "kind"), [("rprelu", RPReLU), ("prelu", nn.PReLU), ("hardtanh", nn.Hardtanh), ("none", nn.Identity)]
)
@pytest.mark.parametrize("depth", [18, 50])
def test_activations_around_the_convolutions_are_a_choice(depth, act, kind):
    net = ReBNNResNet(depth, base_channels=8, act=act, shift=False)
    units = [module for module in net.modules() if isinstance(module, BinaryUnit)]
    assert len(units) == len(binary_layers(net)) and all(type(unit.act) is kind for unit in units)
    assert not any(isinstance(unit.shift, ChannelShift) for unit in units)
    unit = units[0]
    x = torch.randn(2, unit.conv.in_channels, 6, 6)
    shortcut = torch.randn(2, unit.conv.out_channels, 6, 6)
    expected = unit.act(unit.norm(unit.conv(x)) + shortcut)
    torch.testing.assert_close(unit(x, shortcut), expected, rtol=1e-5, atol=1e-5)  # one function, in training
    unit.eval()
    assert torch.equal(unit(x, shortcut), unit.act(unit.norm(unit.conv(x)) + shortcut))


@pytest.mark.parametrize("depth", [18, 50])
def test_classes_are_taken_where_names_are(depth):
    torch.manual_seed(0)
    by_class = ReBNNResNet(
        depth,
        conv_cfg=dict(type=ReBNNConv2d, estimator=dict(type=ClippedSTE)),
        norm_cfg=dict(type=nn.BatchNorm2d, eps=1e-3),
        act=nn.PReLU,
        base_channels=8,
    )
    torch.manual_seed(0)
    by_name = ReBNNResNet(
        depth,
        conv_cfg=dict(type="ReBNNConv2d", estimator=dict(type="ClippedSTE")),
        norm_cfg=dict(type="BN", eps=1e-3),
        act="prelu",
        base_channels=8,
    )
    assert repr(by_class) == repr(by_name)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(by_class(x)[0], by_name(x)[0])
    assert not binary_layers(ReBNNResNet(18, conv_cfg=dict(type=nn.Conv2d), base_channels=8, act=RPReLU))


def test_classes_of_another_kind_are_refused():
    for options, message in [
        (dict(norm_cfg=dict(type=nn.GroupNorm)), "batch norm's class"),
        (dict(act=nn.ReLU), "or the class of one of them"),
        (dict(conv_cfg=dict(type=3)), "give the class"),
    ]:
        with pytest.raises(ValueError, match=message):
            ReBNNResNet(18, base_channels=8, **options)
