"""Shares in the report, presets, and options by kind of layer."""

import pytest
import torch
from torch import nn

from rebnn_mm.convert import PRESETS, binarize
from rebnn_mm.errors import UserError
from rebnn_mm.layers import InputLayerNorm, InputNorm


def net():
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 8, 3, padding=1, bias=False))
    model.add_module("body", nn.Conv2d(8, 8, 3, padding=1, bias=False))
    model.add_module("downsample", nn.Conv2d(8, 8, 1, bias=False))
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("mlp", nn.Linear(8, 8, bias=False))
    model.add_module("bbox_cls", nn.Linear(8, 2, bias=False))
    return model


def test_shares_by_hand():
    report = binarize(net(), sample=torch.randn(1, 3, 4, 4), layer=dict(weight_only=False))
    weights = dict(stem=216, body=576, downsample=64, mlp=64, bbox_cls=16)
    extra = 8 + 8 + 8  # alphas
    one_bit = weights["body"] + weights["downsample"] + weights["mlp"]
    total = sum(weights.values()) + extra
    # ReBNN's gamma is a buffer, so only alpha is a parameter beside the weights
    assert report.weights == pytest.approx(one_bit / total)
    macs = dict(stem=216 * 16, body=576 * 16, downsample=64 * 16, mlp=64, bbox_cls=16)
    assert report.operations == pytest.approx((macs["body"] + macs["downsample"] + 64) / sum(macs.values()))
    assert next(iter(report.real_weights)) == "stem" == next(iter(report.real_operations))
    assert report.real_operations["stem"] == pytest.approx(macs["stem"] / sum(macs.values()))
    text = str(report)
    assert f"{report.weights:.1%} of the weights are 1-bit; most of the rest: stem" in text
    assert f"{report.operations:.1%} of the operations are 1-bit; most of the rest: stem" in text


def test_without_a_sample_operations_are_not_claimed():
    report = binarize(net())
    assert report.operations is None and "operations" not in str(report)


def test_one_sided_layers_are_no_1_bit_operations():
    report = binarize(net(), sample=torch.randn(1, 3, 4, 4), layer=dict(weight_only=True))
    assert report.operations == 0 and report.weights > 0.7


@pytest.mark.parametrize("name", PRESETS)
def test_presets_leave_side_branches_and_add_shortcuts(name):
    model = net()
    report = binarize(model, preset=name)
    assert {"body", "mlp"} <= set(report.replaced) and report.kept["downsample"] == "excluded"
    assert "bbox_cls" in report.kept and model.body.shortcut
    assert isinstance(model.mlp.input_norm, InputLayerNorm if name == "transformer" else InputNorm)


def test_arguments_go_before_a_preset():
    model = net()
    layer = dict(Conv2d=dict(shortcut=False, type="IRNetConv2d"), Linear=dict(type="XNORLinear"))
    binarize(model, preset="transformer", layer=layer, input_norm=False, exclude="stem")
    assert not model.body.shortcut and model.mlp.shortcut
    assert model.body.input_norm is None and model.mlp.input_norm is None
    assert (type(model.body).__name__, type(model.mlp).__name__) == ("IRNetConv2d", "XNORLinear")


def test_layer_norm_is_for_linear_layers_only():
    model = net()
    binarize(model, input_norm="layer")
    assert isinstance(model.body.input_norm, InputNorm) and isinstance(model.mlp.input_norm, InputLayerNorm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(preset="segmenter"), "preset='segmenter' is not one of 'classifier', 'detector', 'transformer'"),
        (dict(scores="bits"), "scores='bits' is not one of"),
        (dict(layer=dict(Conv2d=3)), "give the options of this kind as a dict"),
        (dict(layer=dict(type="ReBNNConv2d")), r"name one of them, or give layer=dict\(Conv2d"),
        (dict(input_norm="batch"), "input_norm='batch' is not one of"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        binarize(net(), **options)
