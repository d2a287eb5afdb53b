"""Released layouts against a module written after the released forward, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("mmpretrain")

from pathlib import Path

from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.integrations.checkpoint import load_into, load_weights
from rebnn_mm.workflows.reactnet import convert_file, convert_state

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WIDTH = 8


class Bias(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(0.3 * torch.randn(1, channels, 1, 1))

    def forward(self, x):
        return x + self.bias


class Conv(nn.Module):
    """kind: reactnet (scale from the weights), flat (the same, weights in one column), rebnn, or stage one's."""

    def __init__(self, inputs, outputs, stride, kind, size=3):
        super().__init__()
        self.stride, self.kind, self.shape = stride, kind, (outputs, inputs, size, size)
        weight = nn.Parameter(torch.randn(self.shape))
        if kind == "flat":
            self.weights = nn.Parameter(weight.detach().reshape(-1, 1))
        else:
            self.weight = weight
        if kind == "rebnn":
            self.scaling_factor = nn.Parameter(10 * torch.randn(outputs, 1, 1, 1))

    def forward(self, x):
        w = self.weights.view(self.shape) if self.kind == "flat" else self.weight
        if self.kind == "rebnn":
            w = torch.sign(w) * 0.02 * torch.abs(self.scaling_factor)
        elif self.kind != "stage1":
            w = torch.sign(w) * w.abs().mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, w, stride=self.stride, padding=self.shape[2] // 2)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, kind):
        super().__init__()
        self.move0 = Bias(inputs)
        self.binary_conv = Conv(inputs, outputs, stride, kind)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.move1, self.prelu, self.move2 = Bias(outputs), nn.PReLU(outputs), Bias(outputs)
        self.downsample = None
        if stride != 1:
            conv = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.downsample = nn.Sequential(nn.AvgPool2d(2, stride), conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn1(self.binary_conv(torch.sign(self.move0(x)))) + shortcut
        return self.move2(self.prelu(self.move1(y)))


class Released(nn.Module):
    def __init__(self, kind, counts=(4, 4, 4, 4), classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        inputs = WIDTH
        for stage, count in enumerate(counts):
            outputs = WIDTH * 2**stage
            blocks = []
            for index in range(count):
                blocks.append(Block(inputs, outputs, 2 if stage and not index else 1, kind))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)), 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean(dim=(2, 3)))


class MobileBlock(nn.Module):
    """A block of ReActNet-A, whose two 1x1 convolutions double the channels by concatenation."""

    def __init__(self, inputs, outputs, stride, kind):
        super().__init__()
        self.move11, self.move12, self.move13, self.move21 = (Bias(inputs) for _ in range(4))
        self.binary_3x3 = Conv(inputs, inputs, stride, kind)
        self.bn1, self.prelu1 = nn.BatchNorm2d(inputs), nn.PReLU(inputs)
        self.doubles = inputs != outputs
        if self.doubles:
            self.binary_pw_down1, self.binary_pw_down2 = (Conv(inputs, inputs, 1, kind, size=1) for _ in range(2))
            self.bn2_1, self.bn2_2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(inputs)
        else:
            self.binary_pw, self.bn2 = Conv(inputs, outputs, 1, kind, size=1), nn.BatchNorm2d(outputs)
        self.move22, self.prelu2, self.move23 = Bias(outputs), nn.PReLU(outputs), Bias(outputs)
        self.pool = nn.AvgPool2d(2) if stride == 2 else nn.Identity()

    def forward(self, x):
        y = self.bn1(self.binary_3x3(torch.sign(self.move11(x)))) + self.pool(x)
        x = self.move13(self.prelu1(self.move12(y)))
        signs = torch.sign(self.move21(x))
        if self.doubles:
            halves = self.bn2_1(self.binary_pw_down1(signs)) + x, self.bn2_2(self.binary_pw_down2(signs)) + x
            y = torch.cat(halves, dim=1)
        else:
            y = self.bn2(self.binary_pw(signs)) + x
        return self.move23(self.prelu2(self.move22(y)))


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(WIDTH)

    def forward(self, x):
        return self.bn1(self.conv1(x))


class ReleasedA(nn.Module):
    def __init__(self, kind, counts, classes=10):
        super().__init__()
        self.feature = nn.ModuleList([Stem()])
        for stage, count in enumerate(counts):
            outputs = WIDTH * 2 ** (stage + 1)
            self.feature.append(MobileBlock(outputs // 2, outputs, 2 if stage else 1, kind))
            self.feature.extend(MobileBlock(outputs, outputs, 1, kind) for _ in range(count - 1))
        self.fc = nn.Linear(outputs, classes)

    def forward(self, x):
        for block in self.feature:
            x = block(x)
        return self.fc(x.mean(dim=(2, 3)))


def released(kind, counts=(4, 4, 4, 4)):
    torch.manual_seed(0)
    model = ReleasedA(kind, counts) if len(counts) == 5 else Released(kind, counts)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2)):
                tensor.uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 0.5)
    return model.eval()


NETWORKS = {16: "resnet18_rebnn_imagenet", 32: "resnet34_rebnn_imagenet", 13: "reactnet_a_react_imagenet"}


def ours(blocks, kind="rebnn"):
    options = {"model.backbone.base_channels": WIDTH, "model.head.num_classes": 10}
    options["model.head.in_channels"] = (32 if blocks == 13 else 8) * WIDTH
    if kind == "stage1":
        options["model.backbone.conv_cfg.activation_only"] = True
    return build_model(read_config(CONFIGS / f"{NETWORKS[blocks]}.py", options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "counts", "prefix"),
    [
        ("reactnet", (4, 4, 4, 4), "module."),
        ("flat", (4, 4, 4, 4), ""),
        ("rebnn", (4, 4, 4, 4), "module."),
        ("stage1", (4, 4, 4, 4), "module."),
        ("rebnn", (6, 8, 12, 6), ""),
        ("reactnet", (1, 2, 2, 6, 2), ""),
        ("flat", (1, 2, 2, 6, 2), "module."),
        ("stage1", (1, 2, 2, 6, 2), "module."),
    ],
)
def test_outputs_are_the_released_models(tmp_path, tool, kind, counts, prefix):
    model = released(kind, counts).double()
    state = {prefix + name: value for name, value in model.state_dict().items()}
    # as their training saves it
    torch.save(dict(epoch=255, state_dict=state, best_top1_acc=torch.tensor(66.9), optimizer={}), tmp_path / "a.tar")
    tool("convert_reactnet")(tmp_path / "a.tar", tmp_path / "b.pth")
    mine = ours(sum(counts), kind).double()
    load_into(mine, load_weights(tmp_path / "b.pth"), tmp_path / "b.pth")
    images = torch.randn(2, 3, 64, 64, dtype=torch.double)
    torch.testing.assert_close(mine(images), model(images), rtol=1e-10, atol=1e-10)


def test_every_tensor_is_used_once():
    theirs = released("rebnn").state_dict()
    converted = convert_state(theirs)
    gammas = [name for name in converted if name.endswith("gamma")]
    assert len(converted) - len(gammas) == len(theirs)
    assert set(converted) == set(ours(16).state_dict())
    for name in [name for name in theirs if name.endswith("num_batches_tracked")]:  # absent from old files
        del theirs[name]
    convert_state(theirs)


def changed(how):
    state = dict(released("reactnet").state_dict())
    if how == "unknown":
        state["layer1.0.conv2.weight"] = torch.zeros(1)
    elif how == "missing":
        del state["layer2.3.prelu.weight"]
    elif how == "blocks":
        state = {name: value for name, value in state.items() if not name.startswith("layer4.3.")}
    elif how == "transposed":
        state["layer2.0.binary_conv.weight"] = state["layer2.0.binary_conv.weight"].transpose(0, 1)
    elif how == "no fc":
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("unknown", "unknown is layer1.0.conv2.weight"),
        ("missing", "1 tensors are missing, the one for backbone.layer2.3.unit.act.prelu.weight"),
        ("blocks", "it has 15 blocks; expected are .* with 16 or 32 blocks"),
        (
            "transposed",
            r"layer2.0.binary_conv.weight has the shape \(8, 16, 3, 3\), which cannot become \(16, 8, 3, 3\)",
        ),
        ("no fc", "2 tensors are missing, the one for head.fc.weight"),
    ],
)
def test_other_layouts_are_refused_in_one_sentence(tmp_path, how, message):
    torch.save(dict(state_dict=changed(how)), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth: .*{message}"):
        convert_file(tmp_path / "a.pth", tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()


def test_a_reactnet_a_that_lacks_a_half_is_refused():
    state = dict(released("flat", (1, 2, 2, 6, 2)).state_dict())
    del state["feature.3.prelu2.weight"]
    with pytest.raises(ValueError, match="1 tensors are missing, the one for backbone.layer2.1.pointwise.act.prelu"):
        convert_state(state)
    state = dict(released("flat", (1, 2, 2, 6, 2)).state_dict())
    del state["feature.2.binary_pw_down2.weights"]
    with pytest.raises(ValueError, match="feature.2.binary_pw_down1.weights has the shape"):
        convert_state(state)


def test_torchvisions_resnet_is_no_reactnet():
    from torchvision.models import resnet18

    with pytest.raises(ValueError, match="no ReActNet-A of the ReActNet family, unknown is layer1.0.conv1.weight"):
        convert_state(resnet18().state_dict())
