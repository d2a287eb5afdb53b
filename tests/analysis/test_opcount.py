"""Operation and byte counts against hand-computed numbers."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.analysis import count_model, format_table
from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear


def small_net() -> nn.Sequential:
    """(1, 3, 8, 8) -> (1, 10): one layer of each kind that has a rule of its own."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),  # 4*8*8 outputs, 27 taps
        nn.BatchNorm2d(4),
        ReBNNConv2d(4, 6, 3, stride=2, padding=1, bias=True),  # 6*4*4 outputs, 36 taps
        ReBNNConv2d(6, 8, 1, weight_only=True, groups=2),  # 8*4*4 outputs, 3 taps
        ReBNNConv2d(8, 8, 1, activation_only=True, bias=False),  # 8*4*4 outputs, 8 taps
        nn.ConvTranspose2d(8, 2, 2, stride=2),  # 8*4*4 inputs, 2*2*2 products each
        nn.Flatten(),
        ReBNNLinear(2 * 8 * 8, 12, input_norm=True),
        nn.Linear(12, 10),
    )


def run(model: nn.Module) -> None:
    """One image."""
    model(torch.zeros(1, 3, 8, 8))


def test_counts_by_hand():
    count = count_model(small_net(), run)
    got = {layer.name: (layer.kind, layer.precision, layer.calls, layer.flops, layer.bops) for layer in count.layers}
    assert got == {
        "0": ("Conv2d", "real", 1, 4 * 64 * 27, 0),
        "2": ("ReBNNConv2d", "W1A1", 1, 0, 6 * 16 * 36),
        "3": ("ReBNNConv2d", "W1A32", 1, 8 * 16 * 3, 0),
        "4": ("ReBNNConv2d", "W32A1", 1, 8 * 16 * 8, 0),
        "5": ("ConvTranspose2d", "real", 1, 8 * 16 * 8, 0),
        "7": ("ReBNNLinear", "W1A1", 1, 0, 12 * 128),
        "8": ("Linear", "real", 1, 120, 0),
    }
    assert count.bops == 6 * 16 * 36 + 12 * 128
    assert count.flops == 6912 + 384 + 1024 + 1024 + 120
    assert count.ops == count.flops + count.bops / 64
    assert count.layers[1].ops == 6 * 16 * 36 / 64


def test_bytes_by_hand():
    count = count_model(small_net(), run)
    packed = {layer.name: (layer.bytes_trained, layer.bytes_packed) for layer in count.layers}
    assert packed["0"] == (4 * 108, 4 * 108)
    # weight, alpha, gamma, bias; packed 36 bits -> 5 bytes a channel, alpha and bias
    assert packed["2"] == (4 * (216 + 6 + 6 + 6), 6 * 5 + 4 * (6 + 6))
    assert packed["3"] == (4 * (24 + 8 + 8 + 8), 8 * 1 + 4 * (8 + 8))
    assert packed["4"] == (4 * 64, 4 * 64)
    assert packed["7"] == (4 * (1536 + 12 + 12 + 12), 12 * 16 + 4 * (12 + 12))
    others = {other.name: (other.kind, other.bytes_trained, other.bytes_packed) for other in count.others}
    # weight, bias, running mean and variance; the int64 batch counter is trained state only
    assert others == {"1": ("BatchNorm2d", 4 * 16 + 8, 4 * 16), "7.input_norm": ("InputNorm", 4 * 256 + 8, 4 * 256)}


def test_bytes_trained_are_the_state_dict():
    model = ReBNNResNet(depth=18, base_channels=8)
    count = count_model(model, lambda m: m(torch.zeros(1, 3, 32, 32)))
    assert count.bytes_trained == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert sum(layer.precision == "W1A1" for layer in count.layers) == 16
    assert count.bytes_packed < count.bytes_trained / 4


def test_a_layer_called_for_each_level_sums_and_shared_tensors_count_once():
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = ReBNNConv2d(4, 4, 1, bias=False)
            self.twin = nn.Conv2d(4, 4, 1, bias=False)
            self.twin.weight = self.conv.weight
            self.idle = nn.Linear(2, 2)

        def forward(self, levels):
            return [self.twin(self.conv(input)) for input in levels]

    model = Head()
    count = count_model(model, lambda m: m(levels=[torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 2, 2)]))
    conv, twin, idle = count.layers
    assert (conv.calls, conv.bops) == (2, 16 * (16 + 4))
    assert twin.flops == conv.bops and twin.bytes_trained == 0
    assert (idle.calls, idle.flops) == (0, 0)
    assert "not called in this run, so without operations: idle" in format_table(count)


def test_counting_leaves_the_model_as_it_was():
    model = small_net().train()
    with torch.no_grad():
        model[2].weight.mul_(3)  # as a later init_weights does: alpha must still be taken from it
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict(keep_vars=True).items()}
    count_model(model, run)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict(keep_vars=True).items())
    torch.testing.assert_close(model[2].scale().flatten(), model[2].weight.abs().flatten(1).mean(1))


def test_an_error_in_the_run_comes_through():
    with pytest.raises(RuntimeError, match="channels"):
        count_model(small_net(), lambda m: m(torch.zeros(1, 5, 8, 8)))


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Conv2d(3, 3, 1)])
def test_nothing_to_count_is_an_error(model):
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        count_model(model, lambda m: None)


def test_table_shows_every_layer_and_the_totals():
    count = count_model(small_net(), run)
    table = format_table(count)
    assert all(f"{layer.flops:,}" in table for layer in count.layers)
    assert "(1 x BatchNorm2d)" in table
    assert f"{count.ops:,.0f}" in table
    assert "1-bit layers (W1A1): 2 of 7" in table


@pytest.mark.parametrize("method", ["Sign", "XNOR", "BiReal", "IRNet", "ReAct", "ReCU", "ReBNN"])
def test_every_method_counts_alike(method):
    """144 operations a pixel, 18 bytes of bits and one scale a channel, of whatever kind."""
    conv = MODELS.get(f"{method}Conv2d")(4, 4, 3, padding=1, bias=False)
    layer = count_model(nn.Sequential(conv), lambda m: m(torch.zeros(1, 4, 5, 5))).layers[0]
    assert (layer.precision, layer.flops, layer.bops) == ("W1A1", 0, 144 * 25)
    assert layer.bytes_packed == 4 * (5 + 4)
