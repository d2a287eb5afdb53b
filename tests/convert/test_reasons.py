"""What stays real-valued, why, and how to have it 1-bit all the same."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn
from torch.nn.utils import parametrizations

from rebnn_mm.convert import binarize
from rebnn_mm.errors import UserError
from rebnn_mm.fast_path import no_fast_path
from rebnn_mm.layers import InputNorm, binary_layers
from rebnn_mm.layers.attention import BinaryMultiheadAttention


class Body(nn.Module):
    """A backbone in OpenMMLab's manner: freezes a stage when it is put into training, and holds its norms."""

    def __init__(self, frozen_stages=1, norm_eval=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval

    def train(self, mode=True):
        super().train(mode)
        if self.frozen_stages >= 1:
            self.layer1.eval().requires_grad_(False)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, x):
        return self.layer2(self.layer1(self.stem(x)))


class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.body, self.head = Body(**options), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.fixture
def warnings(caplog):
    logger = MMLogger.get_instance("test_reasons")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING, logger="test_reasons"):
        yield caplog
    logger.removeHandler(caplog.handler)


def trained(model, x):
    """Names of the 1-bit layers that get a gradient in training."""
    model.train()(x).square().sum().backward()
    return {n for n, m in binary_layers(model).items() if m.weight.grad is not None and m.weight.grad.abs().sum() > 0}


def test_frozen_layers_stay_and_a_warning_names_them(warnings):
    model = Net()  # not yet frozen: that happens in train()
    report = binarize(model)
    assert set(report.replaced) == {"body.layer2.0"} == trained(model, torch.randn(2, 3, 12, 12))
    assert report.kept["body.layer1.0"].startswith("frozen")
    assert "1 frozen layers stay real-valued: body.layer1.0" in warnings.text
    assert "norm_eval=True in body" in warnings.text and "body.layer2.0" in warnings.text
    assert model.body.layer2[0].input_norm.training and not model.body.layer2[1].training


def test_unfreezing_lets_them_train_from_then_on(warnings):
    model = Net()
    report = binarize(model, frozen="unfreeze")
    assert set(report.replaced) == {"body.layer1.0", "body.layer2.0"} == trained(model, torch.randn(2, 3, 12, 12))
    assert model.body.frozen_stages == -1 and not model.body.norm_eval
    assert all(part.training for part in model.modules()) and all(p.requires_grad for p in model.parameters())
    assert not warnings.text


def test_frozen_layers_as_they_are():
    model = Net()
    assert "body.layer1.0" in binarize(model, frozen="binarize").replaced
    assert not model.body.layer1[0].alpha.requires_grad
    with pytest.raises(UserError, match="nothing left.*frozen"):
        binarize(Net().requires_grad_(False))
    with pytest.raises(UserError, match="frozen='yes' is not one of 'keep', 'unfreeze', 'binarize'"):
        binarize(Net(), frozen="yes")


def test_a_part_in_evaluation_is_frozen_but_not_a_whole_model():
    model = Net(frozen_stages=-1)
    model.body.layer1.eval()
    assert binarize(model).kept["body.layer1.0"].startswith("frozen: it is in evaluation")
    assert set(binarize(Net(frozen_stages=-1).eval()).replaced) == {"body.layer1.0", "body.layer2.0"}


def depthwise():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Conv2d(16, 16, 3, groups=8),
        nn.Conv2d(16, 2, 1),
    )


def test_depthwise_convolutions_stay_unless_asked_for():
    report = binarize(depthwise(), include="*")
    assert set(report.replaced) == {"0", "3", "4"} and "depthwise" in report.kept["1"]
    assert set(binarize(depthwise(), depthwise=True).replaced) == {"1", "2", "3"}


def test_parametrized_layers_say_so():
    model = depthwise()
    parametrizations.spectral_norm(model[3])
    assert "parametrized" in binarize(model, include="[034]").kept["3"]


def test_single_outputs_few_inputs_and_gates_stay():
    class SELayer(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

    model = nn.ModuleDict(
        dict(score=nn.Linear(8, 1), place=nn.Linear(2, 8), gate=nn.Sequential(SELayer()), body=nn.Linear(8, 8))
    )
    report = binarize(model, include="*")
    assert set(report.replaced) == {"body"}
    assert "single output" in report.kept["score"] and "2 inputs" in report.kept["place"]
    assert "SELayer" in report.kept["gate.0.fc"]


def test_mmcvs_wrappers_are_replaced_and_its_other_layers_are_not():
    wrappers = pytest.importorskip("mmcv.cnn.bricks.wrappers")
    from mmcv.cnn import ConvWS2d
    from mmcv.ops import MaskedConv2d

    model = nn.Sequential(wrappers.Conv2d(4, 4, 1), wrappers.Linear(4, 4), ConvWS2d(4, 4, 1), MaskedConv2d(4, 4, 1))
    report = binarize(model, include="*")
    assert set(report.replaced) == {"0", "1"} and all("subclass" in why for why in report.kept.values())


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3))


@pytest.mark.parametrize("scores", ["real", "binary"])
def test_a_transformer_of_torchs_is_1_bit_but_for_its_ends(scores):
    torch.manual_seed(0)
    real, model, x = encoder(), encoder(), torch.randn(4, 5, 6)
    report = binarize(model, scores=scores, sample=x)
    parts = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "linear1", "linear2"}
    assert set(report.replaced) == {f"1.layers.{i}.{part}" for i in range(2) for part in parts}
    assert set(report.replaced) == set(binary_layers(model)) == trained(model, x)
    assert report.weights > 0.8 and report.operations > 0.9
    assert not model.load_state_dict(real.state_dict(), strict=False).unexpected_keys
    assert torch.equal(model[1].layers[0].self_attn.q_proj.weight, real[1].layers[0].self_attn.in_proj_weight[:16])
    with torch.no_grad():
        assert model.eval()(x).isfinite().all()


def test_an_attention_that_stays_keeps_its_layers():
    model = nn.Sequential(nn.MultiheadAttention(8, 2, add_bias_kv=True), nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    report = binarize(model, include="*", exclude="1")
    assert set(report.replaced) == {"2"} and set(report.kept) == {"0", "1"}
    assert "keys of its own" in report.kept["0"]
    assert not isinstance(model[1], BinaryMultiheadAttention)


@pytest.mark.parametrize("options", [dict(types="Linear"), dict(exclude="*.self_attn"), dict(include="*.linear1")])
def test_the_linear_layers_of_an_encoder_are_1_bit_beside_real_valued_attention(options, tmp_path):
    from rebnn_mm.deploy import Check, export_model

    torch.manual_seed(0)
    model, x = encoder(), torch.randn(4, 5, 6)
    parts = ("linear1",) if "include" in options else ("linear1", "linear2")
    names = {f"1.layers.{i}.{part}" for i in range(2) for part in parts}
    assert set(binarize(model, sample=x, **options).replaced) == names == trained(model, x)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2] * 2)
    called = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in binary_layers(model).values()]
    with torch.no_grad():
        calls = []
        model.eval()(x)
        assert len(calls) == len(names)
        for handle in called:
            handle.remove()
        with no_fast_path():
            expected, masked = model(x), model[1](model[0](x), src_key_padding_mask=mask)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
        found = model[1](model[0](x), src_key_padding_mask=mask)
        torch.testing.assert_close(found[~mask], masked[~mask], rtol=1e-5, atol=1e-5)
    report = export_model(model, tmp_path / "m.rebnn", check=Check([x], exact=True))
    assert not report.differences and sum(row.precision == "1-bit" for row in report.layers) == len(names)


def test_an_attention_that_a_sample_does_not_call_is_put_back():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2)

        def forward(self, x):
            return self.used(x, x, x)[0]

    model = Part()
    idle = model.idle
    report = binarize(model, sample=torch.randn(3, 2, 8))
    assert model.idle is idle and "does not call it" in report.kept["idle"]
    assert len(report.replaced) == 4 and isinstance(model.used, BinaryMultiheadAttention)


def test_mmcvs_attention_and_initialisers_of_other_libraries():
    transformer = pytest.importorskip("mmcv.cnn.bricks.transformer")
    model = nn.Sequential(transformer.MultiheadAttention(8, 2), transformer.FFN(8, 16))
    report = binarize(model, include="*")
    assert len(report.replaced) == 6
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d, nn.LayerNorm)):
            nn.init.constant_(module.weight, 1)
    x = torch.randn(5, 2, 8)
    model(x).square().sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in binary_layers(model).values())


def nhwc():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mlp, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.mlp(self.stem(x).permute(0, 2, 3, 1)))

    return Block()


def test_linear_layers_in_nhwc_networks():
    model = nhwc()
    binarize(model)
    assert isinstance(model.mlp.input_norm, InputNorm)
    for mode in (True, False):
        assert model.train(mode)(torch.randn(2, 3, 5, 7)).shape == (2, 5, 7, 2)
