"""What the rule makes of networks of every layout is exported exactly."""

import copy

import pytest
import torch
from torch import nn

from rebnn_mm.analysis import count_bytes
from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, export_model, load_model


class Block(nn.Module):
    """ConvNeXt's: NHWC between two permutations, a scale of each channel that is named gamma."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 4)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.gamma = nn.Parameter(torch.full((8,), 0.3))

    def forward(self, x):
        x = self.stem(x)
        y = self.down(self.up(x.permute(0, 2, 3, 1)).relu()) * self.gamma
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("norm", [True, "layer", False])
def test_an_nhwc_block_with_a_gamma_of_its_own(norm, tmp_path):
    torch.manual_seed(0)
    model = Block()
    binarize(model, input_norm=norm)
    x = torch.randn(2, 3, 8, 8)
    for _ in range(2):
        model(x)
    model.eval()
    export_model(model, tmp_path / "a.rebnn", check=Check([x], exact=True))
    assert torch.equal(load_model(tmp_path / "a.rebnn")(x), model(x))
    export_model(model, tmp_path / "b.rebnn", check=Check([x], exact=True), parts=[])
    loaded = load_model(tmp_path / "b.rebnn", model=copy.deepcopy(model))
    assert torch.equal(loaded(x), model(x)) and torch.equal(loaded.gamma, model.gamma)
    own = next(entry for entry in count_bytes(model).others if entry.name == "(model)")
    assert own.bytes_packed == own.bytes_trained == 4 * 8


def test_a_transformer_with_1_bit_attention(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(16, 3)
    )
    binarize(model)
    x = torch.randn(2, 5, 6)
    model(x)
    export_model(model.eval(), tmp_path / "a.rebnn", check=Check([x]))
