"""Buffers of every type: a file holds few, and gives back all."""

import copy

import pytest
import torch
from torch import nn

from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.deploy.graph.parts import Part


class Masked(nn.Module):
    """A causal mask and positions as buffers, as in most language models, and a constant in the code."""

    def __init__(self, dtype):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("mask", torch.ones(4, 4).tril().to(dtype))
        self.register_buffer("steps", torch.arange(4).to(dtype))

    def forward(self, x):
        x = self.inner(self.first(x)) + self.steps[:, None]
        scores = (x @ x.mT).masked_fill(self.mask == 0, -9.0) * torch.tensor([True, False, True, True])
        return self.last(torch.where(self.mask.bool(), scores, 0.0) @ x)


@pytest.mark.parametrize("as_graph", [True, False])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16"])
def test_constants_of_every_type_come_back(dtype, as_graph, tmp_path):
    torch.manual_seed(0)
    model = Masked(getattr(torch, dtype))
    binarize(model, input_norm="layer")
    x = torch.randn(2, 4, 6)
    parts = [Part("", [x], whole="network")] if as_graph else []
    export_model(model.eval(), tmp_path / "m.rebnn", check=Check([x], exact=True), parts=parts)
    packed = load_model(tmp_path / "m.rebnn", model=None if as_graph else copy.deepcopy(model))
    assert torch.equal(packed(x), model(x))
    if not as_graph and not packed.mask.is_floating_point():
        assert packed.mask.dtype == model.mask.dtype and torch.equal(packed.mask, model.mask)
