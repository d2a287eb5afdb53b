"""convert.binarize and the config type Binarized."""

import logging

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.utils import parametrizations, prune

from rebnn_mm import adaptive_padding
from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.convert import Binarized, binarize
from rebnn_mm.estimators import ClippedSTE
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear


class SubConv(nn.Conv2d):
    """Computes what torch's does."""


class OtherConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


class ConvWithScale(nn.Conv2d):
    def __init__(self, *args):
        super().__init__(*args)
        self.scale = nn.Parameter(torch.ones(()))


def net() -> nn.Sequential:
    """stem, two body convolutions, a classifier: names 0, 2, body.0, body.2, head."""
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 4, 3, padding=1))
    model.add_module("relu", nn.ReLU())
    model.add_module("body", nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 1)))
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("mlp", nn.Linear(8, 8))
    model.add_module("head", nn.Linear(8, 2))
    return model


def use_scope(name: str) -> None:
    pytest.importorskip(name)
    __import__(f"{name}.models")
    DefaultScope.get_instance(f"test_convert_{name}", scope_name=name)


@pytest.fixture
def clean_scope():
    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


@pytest.mark.parametrize(
    ("options", "replaced"),
    [
        (dict(), {"body.0", "body.2", "mlp"}),
        (dict(keep_first=False), {"stem", "body.0", "body.2", "mlp"}),
        (dict(keep_last=False), {"body.0", "body.2", "mlp", "head"}),
        (dict(types="Conv2d"), {"body.0", "body.2"}),
        (dict(types=["Linear"]), {"mlp"}),
        (dict(include=["body"]), {"body.0", "body.2"}),
        (dict(include="b*.0"), {"body.0"}),
        (dict(include=["body.[2-9]", "mlp"]), {"body.2", "mlp"}),
        (dict(include=["stem", "head"]), {"stem", "head"}),
        (dict(include=["stem", "body.0"], keep_first=True), {"body.0"}),
        (dict(exclude=["body"]), {"mlp"}),
        (dict(include="body", exclude="*.0"), {"body.2"}),
    ],
)
def test_rules(options, replaced):
    model = net()
    report = binarize(model, **options)
    assert set(report.replaced) == replaced
    one_bit = {n for n, m in model.named_modules() if isinstance(m, ReBNNConv2d | ReBNNLinear)}
    assert one_bit == replaced
    assert set(report.replaced) | set(report.kept) == {"stem", "body.0", "body.2", "mlp", "head"}
    model(torch.randn(4, 3, 6, 6)).sum().backward()


def test_report_says_why():
    report = binarize(net(), exclude="body.0", types="Conv2d")
    assert report.kept == {
        "stem": "first layer (keep_first)",
        "body.0": "excluded",
        "mlp": "Linear is not among types",
        "head": "last layer (keep_last)",
    }
    assert "ReBNNConv2d" in report.replaced["body.2"]
    assert "binarized 1 layers, kept 4" in str(report)
    assert "kept   body.0: excluded" in str(report)


def test_report_is_logged(caplog):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_instance("test_convert")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger="test_convert"):
        binarize(net())
    assert "1-bit  body.0" in caplog.text


def test_parameters_and_modes_stay():
    model = net().double()
    conv = model.body[2] = nn.Conv2d(
        8, 8, (3, 1), stride=2, padding=(1, 0), dilation=(1, 2), groups=8, padding_mode="circular", dtype=torch.float64
    )
    conv.weight.requires_grad_(False)
    model.eval()
    before = dict(model.named_parameters())
    binarize(model, depthwise=True, frozen="binarize")
    new = model.body[2]
    for key in ("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size"):
        assert getattr(new, key) == getattr(conv, key)
    assert new.weight is conv.weight and new.bias is conv.bias and model.body[0].bias is None
    assert new.alpha.dtype == torch.float64 and new.input_norm.running_mean.dtype == torch.float64
    assert not new.alpha.requires_grad and model.body[0].alpha.requires_grad
    assert not new.training and not new.input_norm.training
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert {n.rpartition(".")[2] for n in set(after) - set(before)} == {"alpha"}
    torch.testing.assert_close(new.alpha.flatten(), conv.weight.abs().flatten(1).mean(1))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_forward_is_the_binary_convolution(groups):
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=groups))
    conv = model[0]
    binarize(model, include="0", input_norm=False, depthwise=True)
    x = torch.randn(2, 8, 5, 5)
    signs = torch.where(conv.weight >= 0, 1.0, -1.0)
    alpha = conv.weight.abs().mean(dim=(1, 2, 3)).view(-1, 1, 1)
    x_signs = torch.where(x >= 0, 1.0, -1.0)
    expected = nn.functional.conv2d(x_signs, signs, padding=1, groups=groups) * alpha + conv.bias.view(-1, 1, 1)
    torch.testing.assert_close(model(x), expected)


def test_gradient_reaches_alpha_and_weight():
    model = net()
    binarize(model)
    model(torch.randn(8, 3, 6, 6)).pow(2).sum().backward()
    for layer in (model.body[0], model.body[2], model.mlp):
        assert layer.alpha.grad.abs().sum() > 0
        assert layer.weight.grad.abs().sum() > 0


def test_input_norm_separates_non_negative_inputs():
    x = torch.rand(4, 4, 6, 6)
    seen = {}
    for norm in (True, False):
        model = nn.Sequential(nn.Conv2d(4, 4, 1))
        binarize(model, include="0", input_norm=norm)
        model[0].estimator.register_forward_hook(lambda m, i, o, norm=norm: seen.update({norm: o}))
        model(x)
    assert (seen[False] == 1).all()
    assert 0.3 < (seen[True] == 1).float().mean() < 0.7


def test_shared_module_is_replaced_once_everywhere():
    model = net()
    model.again = model.body[0]
    model.twice = nn.ModuleList([model.mlp, model.mlp])
    report = binarize(model, include=["again", "twice.1"])
    assert set(report.replaced) == {"again", "body.0", "mlp", "twice.0", "twice.1"}
    assert model.again is model.body[0] and isinstance(model.again, ReBNNConv2d)
    assert model.twice[0] is model.twice[1] is model.mlp
    model = net()
    model.again = model.body[0]
    assert "body.0" in binarize(model, exclude="again").kept


def test_tied_weights_stay_tied():
    model = net()
    model.body.append(nn.Conv2d(8, 8, 1))
    model.body[3].weight = model.body[2].weight
    binarize(model)
    assert model.body[3].weight is model.body[2].weight and model.body[3] is not model.body[2]


@pytest.mark.parametrize("kind", [OtherConv, ConvWithScale])
def test_subclasses_that_compute_something_else_are_left_alone(kind):
    model = net()
    model.body.append(kind(8, 8, 1))
    report = binarize(model)
    assert type(model.body[3]) is kind and "subclass" in report.kept["body.3"]


def test_a_forward_put_on_the_object_is_left_alone():
    model = net()
    model.body[0].forward = model.body[0].forward
    assert "computes or holds something else" in binarize(model).kept["body.0"]


def test_subclasses_that_compute_the_same_are_replaced_and_binary_layers_are_not():
    model = net()
    model.body.append(SubConv(8, 8, 1))
    model.body.append(ReBNNConv2d(8, 8, 1))
    report = binarize(model)
    assert isinstance(model.body[3], ReBNNConv2d) and "body.3" in report.replaced
    assert report.kept["body.4"] == "1-bit already"


def test_layer_with_weight_norm_is_left_alone():
    model = net()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.body[0])
    assert "hooks" in binarize(model).kept["body.0"]


def test_layer_options():
    model = net()
    binarize(model, layer=dict(activation_only=True))
    assert model.body[0].alpha is None and not model.body[0].binarizes_weight
    model = net()
    binarize(model, layer=dict(weight_only=True))
    assert model.body[0].input_norm is None and not model.body[0].binarizes_input
    model = net()
    binarize(model, types="Conv2d", layer=dict(type="ReBNNConv2d", estimator=dict(type="ClippedSTE"), input_norm=False))
    assert type(model.body[0].estimator).__name__ == "ClippedSTE" and model.body[0].input_norm is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(types=["Conv3d"]), "Conv3d.*choose from.*Conv2d"),
        (dict(types=[]), "choose from"),
        (dict(include=["body", "nekc"]), r"include patterns \['nekc'\] match no"),
        (dict(exclude=["conv1"]), r"exclude patterns \['conv1'\] match no.*'\*.conv1'"),
        (dict(include="body", exclude="*"), r"nothing left.*exclude=\('\*',\).*excluded"),
        (dict(include="relu"), "match no"),
        (dict(layer=dict(type="ReBNNConv2d")), "name one of them"),
        (dict(layer="ReActConv2d"), r"layer='ReActConv2d': a dict is needed, as dict\(type='ReActConv2d'\)"),
        (dict(include=3), "include=3 must be a name or pattern"),
        (dict(exclude=["body", 3]), r"exclude=\['body', 3\] must be a name or pattern"),
    ],
)
def test_errors(options, message):
    model = net()
    with pytest.raises(ValueError, match=message):
        binarize(model, **options)
    assert not any(isinstance(m, ReBNNConv2d | ReBNNLinear) for m in model.modules())


def test_a_bare_layer_and_an_empty_model_are_refused():
    with pytest.raises(ValueError, match="itself is a Conv2d"):
        binarize(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="no layers"):
        binarize(nn.ReLU())
    with pytest.raises(ValueError, match="model is of type str"):
        binarize("resnet18")


def test_stock_checkpoint_loads_and_sets_alpha():
    stock = net()
    model = net()
    binarize(model)
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected and all(".input_norm." in name for name in missing)
    torch.testing.assert_close(model.body[0].weight, stock.body[0].weight)
    torch.testing.assert_close(model.body[0].alpha.flatten(), stock.body[0].weight.abs().flatten(1).mean(1))
    model = net()
    binarize(model, input_norm=False)
    model.load_state_dict(stock.state_dict())


def resnet_cfg() -> dict:
    return dict(
        type="Binarized",
        base="ImageClassifier",
        binarize=dict(exclude=["*.downsample"]),
        backbone=dict(type="ResNet", depth=18),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=3, in_channels=512),
    )


def test_stock_mmpretrain_resnet(clean_scope, tmp_path):
    use_scope("mmpretrain")
    from mmengine.runner import load_checkpoint

    cfg = resnet_cfg()
    stock = MODELS.build({**cfg, "binarize": None})
    assert not any(isinstance(m, ReBNNConv2d) for m in stock.modules())
    stock.init_weights()
    torch.save(dict(state_dict=stock.state_dict()), tmp_path / "stock.pth")

    model = MODELS.build({**cfg, "init_cfg": dict(type="Pretrained", checkpoint=str(tmp_path / "stock.pth"))})
    assert type(model) is type(stock) and hasattr(model, "data_preprocessor")
    one_bit = [n for n, m in model.named_modules() if isinstance(m, ReBNNConv2d)]
    assert len(one_bit) == 16 and not any("downsample" in n for n in one_bit)
    assert type(model.backbone.conv1) is nn.Conv2d and type(model.head.fc) is nn.Linear
    assert set(stock.state_dict()) <= set(model.state_dict())

    model.init_weights()
    conv, real = model.backbone.layer2[0].conv2, stock.backbone.layer2[0].conv2
    torch.testing.assert_close(conv.weight, real.weight)
    torch.testing.assert_close(conv.alpha.flatten(), real.weight.abs().flatten(1).mean(1))
    load_checkpoint(model, str(tmp_path / "stock.pth"), map_location="cpu")

    wrapper = build_optim_wrapper(model, dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=1e-3)))
    held = {id(p) for group in wrapper.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in held for p in model.parameters())
    before = conv.alpha.detach().clone()
    batch = dict(inputs=torch.randn(2, 3, 32, 32), data_samples=data_samples(2))
    for _ in range(2):  # the first only moves the last norm of each block, which mmpretrain starts at 0
        model.train_step(batch, wrapper)
    assert (conv.alpha != before).any()


def data_samples(count: int) -> list:
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(i) for i in range(count)]


def test_stock_mmdet_rpn_head(clean_scope):
    use_scope("mmdet")
    cfg = dict(
        type="Binarized",
        base="RPNHead",
        binarize=dict(include=["rpn_conv"], input_norm=False),
        in_channels=8,
        feat_channels=8,
        anchor_generator=dict(type="AnchorGenerator", scales=[8], ratios=[1.0], strides=[4]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True),
        loss_bbox=dict(type="L1Loss"),
    )
    head = MODELS.build(cfg)
    assert type(head).__name__ == "RPNHead"
    assert isinstance(head.rpn_conv, ReBNNConv2d) and type(head.rpn_cls) is nn.Conv2d
    head.init_weights()
    scores, boxes = head([torch.randn(1, 8, 6, 6)])
    (scores[0].sum() + boxes[0].pow(2).sum()).backward()
    assert head.rpn_conv.alpha.grad.abs().sum() > 0
    # alpha follows the weights that init_weights drew, not those of the constructor
    torch.testing.assert_close(head.rpn_conv.alpha.flatten(), head.rpn_conv.weight.abs().flatten(1).mean(1))


def test_binarized_with_a_scope_prefix(clean_scope):
    pytest.importorskip("mmpretrain.models")
    backbone = Binarized("mmpretrain.ResNet", binarize=dict(include="layer4"), depth=18)
    assert isinstance(backbone.layer4[0].conv1, ReBNNConv2d) and type(backbone.layer3[0].conv1) is nn.Conv2d


def test_wrong_rule_in_a_config_keeps_its_message(clean_scope):
    use_scope("mmpretrain")
    with pytest.raises(ValueError, match="match no convolution"):
        MODELS.build({**resnet_cfg(), "binarize": dict(include=["bakbone"])})


def test_classes_are_taken_where_names_are():
    model = net()
    report = binarize(model, types=nn.Conv2d, layer=dict(type=ReBNNConv2d, estimator=dict(type=ClippedSTE)))
    assert set(report.replaced) == {"body.0", "body.2"} and isinstance(model.body[0].estimator, ClippedSTE)
    model = net()
    assert set(binarize(model, types=[nn.Linear, "Conv2d"]).replaced) == {"body.0", "body.2", "mlp"}
    backbone = Binarized(ReBNNResNet, conv_cfg=dict(type=nn.Conv2d), base_channels=8, binarize=dict(include="layer4"))
    assert isinstance(backbone.layer4[0].unit.conv, ReBNNConv2d)
    with pytest.raises(ValueError, match="GroupNorm.*choose from"):
        binarize(net(), types=nn.GroupNorm)
    with pytest.raises(ValueError, match="name one of them"):
        binarize(net(), layer=dict(type=ReBNNConv2d))


def test_parametrized_and_pruned_layers_are_left_alone():
    model = net()
    parametrizations.weight_norm(model.body[0])
    prune.l1_unstructured(model.body[2], "weight", 0.5)
    report = binarize(model)
    assert set(report.replaced) == {"mlp"} and "hooks" in report.kept["body.2"]


class PadsBySize(nn.Conv2d):
    """What mmcv's and timm's convolutions with TensorFlow's padding compute."""

    def forward(self, x):
        pads = []
        for size, step, dilation, reach in zip(x.shape[-2:], self.stride, self.dilation, self.kernel_size, strict=True):
            both = max((-(-size // step) - 1) * step + (reach - 1) * dilation + 1 - size, 0)
            pads = [both // 2, both - both // 2, *pads]
        return nn.functional.conv2d(
            nn.functional.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


@pytest.mark.parametrize(
    ("shape", "padding"),
    [
        (dict(kernel_size=1), (0, 0)),
        (dict(kernel_size=1, stride=2), (0, 0)),
        (dict(kernel_size=3), (1, 1)),
        (dict(kernel_size=(3, 5), dilation=2), (2, 4)),
        (dict(kernel_size=3, stride=2), None),
        (dict(kernel_size=2), None),
        (dict(kernel_size=(1, 3), stride=(2, 1)), (0, 1)),
    ],
)
def test_padding_by_size_is_plain_where_every_size_gets_the_same(shape, padding, monkeypatch):
    monkeypatch.setattr(adaptive_padding, "PADS_BY_SIZE", {f"{__name__}.PadsBySize"})
    model = net()
    old = PadsBySize(8, 8, **shape)
    model.body.append(old)
    report = binarize(model)
    if padding is None:
        assert model.body[3] is old and report.kept["body.3"].startswith("pads by the size of its input")
        return
    new = model.body[3]
    assert isinstance(new, ReBNNConv2d) and new.padding == padding
    for size in (7, 8):
        x = torch.randn(1, 8, size, size)
        plain = nn.functional.conv2d(x, old.weight, old.bias, new.stride, new.padding, new.dilation)
        torch.testing.assert_close(old(x), plain)


def test_mmcvs_adaptive_padding_is_known():
    pytest.importorskip("mmcv")
    from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding

    model = net()
    model.body.append(Conv2dAdaptivePadding(8, 8, 3))
    model.body.append(Conv2dAdaptivePadding(8, 8, 3, stride=2))
    report = binarize(model)
    assert "body.3" in report.replaced and "pads by the size" in report.kept["body.4"]


def test_elastic_scores_replace_torchs_attention_and_refuse_a_product_that_is_a_function():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.proj = nn.MultiheadAttention(8, 2), nn.Linear(8, 8)

    model = Own()
    binarize(model, include=("attention", "proj"), scores="elastic")
    assert model.attention.attend.scores == "elastic" and model.attention.attend.elastic["weights"].unsigned
    other = Own()
    other.proj.scaled_dot_product_attention = nn.functional.scaled_dot_product_attention
    with pytest.raises(ValueError, match="scores='elastic' does not reach proj, a Linear"):
        binarize(other, include="proj", scores="elastic")


def test_convolutions_without_a_one_bit_form_are_reported():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 2), nn.Conv2d(8, 8, 3))
    report = binarize(model)
    assert set(report.replaced) == {"1"}
    assert report.kept["2"] == "ConvTranspose2d, for which there is no 1-bit form"
