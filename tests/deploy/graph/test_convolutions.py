"""What is read from the calls of real-valued layers, and norms put into them."""

import pytest
import torch
from graph_toys import names, settle
from torch import nn

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.convolutions import CONV, ConvCall, only_reader
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.passes.prepare import prepare


def convolution(module, x):
    traced = capture(module, [x])
    return traced, next(node for node in traced.graph.nodes if node.target == CONV)


@pytest.mark.parametrize("options", [{}, dict(stride=2, padding=1), dict(dilation=(1, 2), groups=2, bias=False)])
def test_sizes_of_a_call(options):
    module = nn.Conv2d(4, 6, 3, **options)
    traced, node = convolution(module, torch.randn(2, 4, 9, 9))
    call = ConvCall.read(traced, node)
    assert torch.equal(call.weight, module.weight) and (call.bias is None) == (module.bias is None)
    spec = call.spec
    assert (spec.stride, spec.padding, spec.dilation, spec.groups) == (
        *(module.stride, module.padding, module.dilation, module.groups),
    )


def test_a_weight_that_is_computed_is_none():
    class Dynamic(nn.Module):
        def forward(self, x):
            return nn.functional.conv2d(x, x[:1, :, :2, :2].mean() * torch.ones(3, 4, 1, 1)).relu() + 1

    traced, node = convolution(Dynamic(), torch.randn(2, 4, 9, 9))
    assert ConvCall.read(traced, node) is None
    assert only_reader(node).target == torch.ops.aten.relu.default and only_reader(node.args[1]) is None


def test_norms_go_into_convolutions_and_into_linear_layers_on_rows():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5))
    settle(model)
    x = torch.randn(2, 3, 5, 5)
    traced = fuse(capture(model, [x]))
    for node in traced.graph.nodes:
        node.meta["rank"] = node.meta["val"].dim() if "val" in node.meta else None
    prepare(traced, exact=False)
    assert "rebnn.affine" not in names(traced)
    with torch.no_grad():
        (found,) = [traced.runnable()(x)]
        assert torch.allclose(found, model(x), atol=1e-5)
