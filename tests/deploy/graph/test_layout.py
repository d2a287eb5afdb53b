"""Channels-last memory inside, and the bits of contiguous memory, in which networks are trained."""

import pytest
import torch
from graph_toys import settle
from torch import nn

from rebnn_mm.deploy.layers.depthwise import DepthwisePlan
from rebnn_mm.layers import ReBNNConv2d


@pytest.mark.parametrize(
    "act",
    [
        nn.GELU(),
        nn.GELU("tanh"),
        nn.SiLU(),
        nn.Sigmoid(),
        nn.Mish(),
        nn.ELU(),
        nn.Softplus(),
        nn.Hardswish(),
        nn.Tanh(),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [7, 32])
def test_activations_have_the_bits_of_contiguous_memory(packed, threads, act, channels):
    """GELU is oneDNN's there; others compute what fills no vector by other code, at the end of each thread's share."""
    torch.manual_seed(0)
    network = settle(
        nn.Sequential(ReBNNConv2d(3, channels, 3, padding=1, input_norm=True), act, nn.BatchNorm2d(channels))
    )
    graph = packed(network, torch.randn(2, 3, 8, 8))[1]
    for count in (1, 2, 3):
        threads(count)
        for shape in ((1, 3, 5, 3), (2, 3, 48, 50)):
            x = 4 * torch.randn(shape)
            with torch.no_grad():
                assert torch.equal(graph(x), network(x))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("padding", "kernel", "counted"), [("same", 3, True), ("same", (3, 4), False), ("valid", 3, True)]
)
def test_a_padding_by_name_is_counted(packed, padding, kernel, counted, exact):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, padding=padding, groups=6)
    network = settle(nn.Sequential(nn.Conv2d(3, 6, 1), conv, nn.BatchNorm2d(6)))
    graph = packed(network, torch.randn(2, 3, 9, 9), exact=exact)[1]
    x = torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(graph(x), network(x), **(dict(rtol=0, atol=0) if exact else {}))
    names = [str(step) for step in graph._program()._steps]
    assert ("conv2d.padding" in names) == (not counted)
    if not exact and counted:
        assert any(isinstance(step.function, DepthwisePlan) for step in graph._program()._steps)
