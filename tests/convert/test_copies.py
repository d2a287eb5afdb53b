"""Networks that carry a copy of themselves, which follows the trained one's parameters."""

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rebnn_mm.convert import binarize
from rebnn_mm.layers import binary_layers


def encoder():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1))


def neck():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))


class Siamese(nn.Module):
    """As BYOL and MoCo are: a backbone and a neck that train, and a copy of both."""

    def __init__(self, name, follow):
        super().__init__()
        self.backbone, self.neck, self.head = encoder(), neck(), nn.Linear(16, 16)
        setattr(self, name, follow(nn.Sequential(self.backbone, self.neck)))
        self.name = name

    def forward(self, x):
        online = self.head(self.neck(self.backbone(x)))
        with torch.no_grad():
            target = getattr(self, self.name)(x)
        return (online - target).square().mean()


def frozen_copy(module):
    return copy.deepcopy(module).requires_grad_(False)


KINDS = {
    "encoder_k": lambda m: ExponentialMovingAverage(m, momentum=0.1),
    "averaged": lambda m: ExponentialMovingAverage(m, update_buffers=True),
    "swa": AveragedModel,
    "target_net": frozen_copy,
    "momentum_encoder": frozen_copy,
}
ONLINE = {"backbone.3", "backbone.4", "neck.2", "neck.4"}


def parts(model):
    """Names of 1-bit layers in the trained network, and in the copy as names of the trained network."""
    layers, prefix = binary_layers(model), f"{model.name}."
    inside = {name.removeprefix(prefix).removeprefix("module.") for name in layers if name.startswith(prefix)}
    ours = {name for name in layers if not name.startswith(prefix)}
    return ours, {name.replace("0.", "backbone.", 1) if name[0] == "0" else f"neck{name[1:]}" for name in inside}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("options", [{}, dict(frozen="unfreeze"), dict(exclude="neck"), dict(keep_last=False)])
def test_a_copy_is_one_bit_where_the_original_is(name, options):
    model = Siamese(name, KINDS[name])
    report = binarize(model, **options)
    ours, theirs = parts(model)
    assert theirs == ours - {"head"}
    assert ours - {"head"} == (ONLINE if "exclude" not in options else {"backbone.3", "backbone.4"})
    assert ("head" in ours) == (options == dict(keep_last=False))
    assert report.kept[next(key for key in report.kept if key.startswith(name))].startswith("follows backbone.0: first")
    target = getattr(model, name)
    assert name == "swa" or not any(p.requires_grad for p in target.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_a_step_trains_the_network_and_the_copy_follows(name):
    torch.manual_seed(0)
    model = Siamese(name, KINDS[name])
    binarize(model)
    model(torch.randn(4, 3, 8, 8)).backward()
    assert all(layer.weight.grad.any() for key, layer in binary_layers(model).items() if not key.startswith(name))
    online, target = nn.Sequential(model.backbone, model.neck), getattr(model, name)
    for _ in range(2):
        for parameter in online.parameters():
            parameter.data.add_(0.5)
        if hasattr(target, "update_parameters"):
            target.update_parameters(online)
        else:
            for old, new in zip(target.parameters(), online.parameters(), strict=True):
                old.data.lerp_(new.data, 0.1)
    inside = target.module if hasattr(target, "module") else target
    after, before = dict(inside.named_parameters()), dict(online.named_parameters())
    assert set(after) == set(before)
    assert any("alpha" in key for key in after) and not torch.equal(after["0.3.alpha"], before["0.3.alpha"])


def test_a_copy_follows_what_a_sample_puts_back():
    class Uncalled(Siamese):
        def forward(self, x):
            return self.backbone(x)

    model = Uncalled("target_net", frozen_copy)
    binarize(model, sample=torch.randn(1, 3, 8, 8))
    assert parts(model) == ({"backbone.3", "backbone.4"}, {"backbone.3", "backbone.4"})


def test_an_attention_of_a_copy_is_replaced_and_followed():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2)

    model = nn.Module()
    model.online = Attending()
    model.ema = ExponentialMovingAverage(model.online)
    model.head = nn.Linear(8, 8)
    binarize(model)
    assert {"ema.module.attention.q_proj", "online.attention.q_proj"} <= set(binary_layers(model))
    model.ema.update_parameters(model.online)
    model.ema.update_parameters(model.online)


class Taught(nn.Module):
    """As CAE is: a teacher that is built like the backbone and frozen when its weights are initialised."""

    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.teacher = encoder(), neck(), encoder()


def test_a_teacher_built_like_the_backbone_keeps_the_same_ends():
    model = Taught()
    binarize(model)
    layers = set(binary_layers(model))
    assert layers == {"backbone.3", "backbone.4", "neck.2", "teacher.3", "teacher.4"}
    for student, teacher in zip(model.backbone.parameters(), model.teacher.parameters(), strict=True):
        teacher.data.copy_(student.data)


def test_a_frozen_teacher_stays_real_valued():
    model = Taught()
    model.teacher.requires_grad_(False)
    binarize(model)
    assert set(binary_layers(model)) == {"backbone.3", "backbone.4", "neck.2"}


def test_frozen_blocks_and_attention_names_are_no_copies():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = (nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))

    model = nn.Module()
    model.first, model.blocks, model.last = nn.Linear(8, 8), nn.ModuleList([Block(), Block()]), nn.Linear(8, 8)
    model.blocks[0].requires_grad_(False)
    binarize(model, exclude="blocks.1.key")
    assert set(binary_layers(model)) == {"blocks.1.query.0", "blocks.1.value.0"}
