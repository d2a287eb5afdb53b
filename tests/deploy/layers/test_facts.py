"""What code around a packed layer asks of it."""

import pytest
import torch
from torch import nn

from rebnn_mm import weight_readers
from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.deploy.graph.parts import Part
from rebnn_mm.deploy.layers.facts import WeightFacts


class Asking(nn.Module):
    """Asks its layers for place, type and sizes, as EdgeNeXt's and T5's modules do."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.conv = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.proj = nn.Linear(16, 24, bias=False)
        self.last = nn.Linear(24, 5)

    def forward(self, x):
        x = self.first(x).to(self.conv.weight.dtype)
        steps = torch.arange(self.conv.in_channels, device=self.conv.weight.device, dtype=torch.float32)
        x = self.conv(x + steps.view(-1, 1, 1)) + self.conv.stride[0] * self.conv.kernel_size[1] + self.conv.groups
        x = x.mean((2, 3)).to(self.proj.weight.dtype)
        scale = self.proj.weight.shape[0] / self.proj.in_features + self.proj.weight.dim() + self.proj.out_features
        x = self.proj(x) * scale
        return self.last(x if self.proj.bias is None else x - self.proj.bias)


@pytest.mark.parametrize("as_graph", [True, False])
@pytest.mark.parametrize("weight_only", [True, False])
def test_a_module_may_ask_a_packed_layer_what_it_asks_a_plain_one(tmp_path, as_graph, weight_only):
    torch.manual_seed(0)
    model = Asking()
    report = binarize(model, layer=dict(weight_only=weight_only))
    assert set(report.replaced) == {"conv", "proj"}
    for _ in range(2):
        model(torch.randn(4, 3, 9, 9))
    x = torch.randn(2, 3, 9, 9)
    parts = [Part("", [x], whole="network")] if as_graph else []
    exported = export_model(model, tmp_path / "m.rebnn", check=Check([x], exact=True), parts=parts)
    assert ("a graph of" in str(exported.graphs)) == as_graph
    other = None if as_graph else Asking()
    if other is not None:
        binarize(other, layer=dict(weight_only=weight_only))
    assert torch.equal(load_model(tmp_path / "m.rebnn", model=other)(x), model.eval()(x))


def test_facts_are_those_that_are_no_computation():
    facts, weight = WeightFacts((4, 3)), torch.zeros(4, 3)
    for name in weight_readers._HARMLESS:
        expected, found = getattr(weight, name), getattr(facts, name)
        assert (found() == expected()) if callable(expected) else (found == expected)
    assert facts.size(0) == 4
    with pytest.raises(TypeError):
        nn.functional.linear(torch.zeros(1, 3), facts)
