"""Convolutions that pad by the size of their input, where networks are stored as graphs."""

import pytest
import torch
from torch import nn

from rebnn_mm import adaptive_padding
from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.errors import UserError


class PadsBySize(nn.Conv2d):
    """What mmcv's and timm's convolutions with TensorFlow's padding compute."""

    def forward(self, x):
        pads = []
        for size, step, reach in zip(x.shape[-2:], self.stride, self.kernel_size, strict=True):
            both = max((-(-size // step) - 1) * step + reach - size, 0)
            pads = [both // 2, both - both // 2, *pads]
        return nn.functional.conv2d(nn.functional.pad(x, pads), self.weight, self.bias, self.stride)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(adaptive_padding, "PADS_BY_SIZE", {f"{__name__}.PadsBySize"})
    torch.manual_seed(0)
    model = nn.Sequential(PadsBySize(3, 8, 3, stride=2), PadsBySize(8, 8, 1), PadsBySize(8, 8, 3), PadsBySize(8, 2, 1))
    binarize(model)
    for _ in range(3):
        model(torch.randn(4, 3, 10, 10))
    return model.eval()


def test_its_graph_is_for_images_of_one_size(model):
    x = torch.randn(2, 3, 10, 12)
    assert capture(model, [x]).inputs[0].shape == (None, 3, 10, 12)
    with pytest.raises(UserError, match="has padding by size, which computes with the size of its input"):
        capture(model, [x], any_size=True)


def test_it_is_exported_and_equal(model, tmp_path):
    x = torch.randn(2, 3, 11, 10)
    report = export_model(model, tmp_path / "m.rebnn", check=Check([x], exact=True))
    assert "2 of them 1-bit" in str(report.graphs)
    assert torch.equal(load_model(tmp_path / "m.rebnn")(x[:1]), model(x[:1]))
