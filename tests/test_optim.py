"""The learning rate of latent weights."""

import inspect
import re

import pytest
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from torch import nn

from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReActConv2d, ReBNNConv2d, ReBNNLinear
from rebnn_mm.optim import STOCK_OPTIONS


class Net(nn.Module):
    """Three kinds of parameters: latent weights, alpha, all others."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.other = ReBNNConv2d(4, 4, 3), ReActConv2d(4, 4, 3)
        self.stage_one, self.head = ReBNNConv2d(4, 4, 3, activation_only=True), ReBNNLinear(4, 2)


def rates(model, lr=0.1, **paramwise):
    """Name -> learning rate; and the number of groups."""
    cfg = dict(constructor="LatentWeightConstructor", optimizer=dict(type="Adam", lr=lr), paramwise_cfg=paramwise)
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}, len(groups)


def test_latent_weights_alone_learn_faster():
    found, groups = rates(Net(), latent_lr_mult=10)
    fast = {"conv.weight", "other.weight", "head.weight"}  # stage one's weights are real-valued
    assert found == {name: 1.0 if name in fast else 0.1 for name, _ in Net().named_parameters()} and groups == 2


def test_other_rules_still_hold():
    found, groups = rates(Net(), latent_lr_mult=10, bias_lr_mult=2, custom_keys={"conv": dict(lr_mult=0.5)})
    assert found["conv.weight"] == pytest.approx(0.5) and found["conv.alpha"] == pytest.approx(0.05)
    assert found["other.weight"] == pytest.approx(1.0) and found["stem.bias"] == pytest.approx(0.2)
    # the four above, and what no rule names
    assert found["stem.weight"] == 0.1 and groups == 5


def test_names_are_not_needed():
    """The same groups as by names that hold for ReBNNResNet alone."""
    keys = {"conv": dict(lr_mult=30), "alpha": dict(lr_mult=1)}
    model = nn.Sequential()
    model.add_module("conv", ReBNNConv2d(4, 4, 3, bias=False))
    assert rates(model, custom_keys=keys)[0] == rates(model, latent_lr_mult=30)[0]


def test_a_real_valued_twin_is_trained_as_before():
    assert rates(nn.Conv2d(3, 4, 3), latent_lr_mult=10) == ({"weight": 0.1, "bias": 0.1}, 1)
    assert rates(nn.Conv2d(3, 4, 3)) == ({"weight": 0.1, "bias": 0.1}, 1)


@pytest.mark.parametrize("mult", [0, -1, float("inf"), float("nan"), "10", True, None])
def test_refusals(mult):
    with pytest.raises(UserError, match="latent_lr_mult=.* must be a finite number > 0"):
        rates(Net(), latent_lr_mult=mult)


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        (dict(latent_lr_mul=10), "paramwise_cfg: 'latent_lr_mul' is unknown; did you mean latent_lr_mult?"),
        (dict(norm_decay=0), "'norm_decay' is unknown; did you mean norm_decay_mult?"),
        (dict(whatever=0), "'whatever' is unknown; allowed are bias_decay_mult, "),
        (dict(custom_keys=dict(conv=dict(lr_mul=2))), r"custom_keys\['conv'\]: 'lr_mul' is .*mean lr_mult"),
        (dict(custom_keys=dict(conv=2)), r"custom_keys\['conv'\]=2: a dict is needed"),
        (dict(custom_keys=3), "custom_keys=3: a dict is needed"),
        (dict(norm_decay_mult="none"), "paramwise_cfg.norm_decay_mult='none' must be a finite number, or None"),
        (dict(custom_keys=dict(conv=dict(lr_mult="2"))), r"custom_keys\['conv'\].lr_mult='2' must be a finite number"),
    ],
)
def test_a_name_that_nobody_reads_is_refused(paramwise, message):
    with pytest.raises(UserError, match=message):
        rates(Net(), **paramwise)


def test_a_rule_may_have_names_that_an_optimizer_or_a_hook_reads():
    cfg = dict(constructor="LatentWeightConstructor", optimizer=dict(type="Adam", lr=0.1))
    cfg["paramwise_cfg"] = dict(custom_keys=dict(head=dict(betas=(0.5, 0.9), lars_exclude=True, fix_lr=True)))
    groups = build_optim_wrapper(Net(), cfg).optimizer.param_groups
    assert {group["betas"] for group in groups} == {(0.5, 0.9), (0.9, 0.999)}
    assert any(group.get("lars_exclude") and group.get("fix_lr") for group in groups)


def test_mmengine_reads_the_names_that_are_known():
    """Held against its source: a release that reads one more must not be refused it."""
    read = re.findall(r"paramwise_cfg\.get\('(\w+)'", inspect.getsource(DefaultOptimWrapperConstructor))
    assert set(read) == STOCK_OPTIONS


def test_a_learning_rate_is_needed():
    cfg = dict(constructor="LatentWeightConstructor", optimizer=dict(type="Adadelta"), paramwise_cfg={})
    build_optim_wrapper(Net(), cfg)
    cfg["paramwise_cfg"] = dict(latent_lr_mult=2)
    with pytest.raises(UserError, match="optim_wrapper.optimizer has no lr"):
        build_optim_wrapper(Net(), cfg)


@pytest.mark.parametrize("mult", [1, 10])
def test_a_shared_parameter_is_refused_or_updated_once(mult):
    """In one group torch would warn and update it twice; of mmengine's two groups torch refuses the second."""
    layer = ReBNNConv2d(4, 4, 3)
    model = nn.Sequential(nn.Sequential(layer), nn.Sequential(layer))
    with pytest.raises(UserError, match=r"3 parameters belong to several modules.*bypass_duplicate=True"):
        rates(model, latent_lr_mult=mult)
    found, _ = rates(model, latent_lr_mult=mult, bypass_duplicate=True)
    assert found == {"0.0.weight": 0.1 * mult, "0.0.bias": 0.1, "0.0.alpha": 0.1}
