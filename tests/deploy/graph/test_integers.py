"""Layers with weights in 8 bits, computed on integers where a network need not be exact."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.deploy.graph.passes import integers
from rebnn_mm.deploy.layers.int8_linear import Int8Linear, IntegerLinear, supported
from rebnn_mm.deploy.operation.int8 import quantize
from rebnn_mm.errors import NotFiniteError
from rebnn_mm.layers import ReBNNConv2d

needs_integers = pytest.mark.skipif(not supported(), reason="torch has no fast 8-bit products for this processor")


def close(found, expected):
    assert found.shape == expected.shape and found.dtype == torch.float32
    return float((found - expected).abs().max()) < 0.03 * float(expected.abs().max())


@needs_integers
@pytest.mark.parametrize("bias", [None, torch.linspace(-3, 3, 40)])
@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 24), (24,), (0, 24), (6, 0, 24)])
def test_linear(bias, shape):
    weight, x = quantize(torch.randn(40, 24)), torch.randn(shape)
    if shape == (24,):
        x = torch.randn(24, 3).t()[1:2]  # not contiguous
    found, expected = Int8Linear(weight.values, weight.scale, bias)(x), linear(x, weight.dequantize(), bias)
    assert not x.numel() or close(found, expected)
    assert found.shape == expected.shape


class Net(nn.Module):
    """A stem with a norm of both signs, a depthwise layer that stays in float, a 1-bit one, a classifier."""

    def __init__(self, classes=600):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 128, 3, 2, 1), nn.BatchNorm2d(128)
        self.plain = nn.Conv2d(128, 128, 1, bias=False)  # all arguments as they are by default
        self.deep = nn.Conv2d(128, 128, 3, padding=1, groups=128)
        self.one = ReBNNConv2d(128, 128, 3, padding=1)
        self.fc = nn.Linear(128, classes)

    def forward(self, x):
        x = self.deep(self.plain(torch.relu(self.norm(self.stem(x)))))
        return self.fc((self.one(x) + x).mean((2, 3)))


@pytest.fixture
def stored(tmp_path):
    torch.manual_seed(0)
    net = Net()
    nn.init.normal_(net.norm.weight)
    for _ in range(2):
        net.train()(torch.randn(4, 3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    export_model(net.eval(), tmp_path / "m.rebnn", check=Check([x]), int8=True)
    return tmp_path / "m.rebnn", x


def targets(network):
    return [type(node.target) for node in network.arranged().graph.nodes]


@needs_integers
def test_only_inexact_networks_compute_on_integers(stored):
    path, x = stored
    exact, fast = load_model(path), load_model(path, exact=False)
    assert Int8Linear not in targets(exact) and targets(fast).count(Int8Linear) == 1
    y, z = exact(x), fast(x)
    assert not torch.equal(y, z) and torch.nn.functional.cosine_similarity(y, z).min() > 0.9
    for network in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(network(x), z)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(fast(x), z)
    finally:
        torch.set_num_threads(before)
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="a layer in 8 bits holds NaN or infinity"):
        fast(x)


def test_a_processor_without_them_computes_in_float(stored, monkeypatch):
    monkeypatch.setattr(integers, "supported", lambda: False)
    path, x = stored
    torch.testing.assert_close(load_model(path, exact=False)(x), load_model(path)(x), rtol=1e-3, atol=1e-3)


def test_a_recorded_network_is_in_float(stored):
    path, x = stored
    network = load_model(path, exact=False)
    program = torch.export.export(network, (x,), strict=False)
    assert "int8" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), load_model(path)(x), rtol=1e-3, atol=1e-3)


@needs_integers
def test_layers_outside_of_graphs(tmp_path):
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 16, 16)
    export_model(net, tmp_path / "m.rebnn", check=Check([x]), int8=True, parts=[])
    exact = load_model(tmp_path / "m.rebnn", model=Net())
    fast = load_model(tmp_path / "m.rebnn", model=Net(), exact=False)
    assert type(exact.fc) is nn.Linear and isinstance(fast.fc, IntegerLinear)
    assert torch.equal(fast.fc.weight, exact.fc.weight) and fast.fc.out_features == 600
    assert close(fast(x), exact(x))
    assert torch.equal(copy.deepcopy(fast)(x), fast(x)) and torch.equal(pickle.loads(pickle.dumps(fast))(x), fast(x))
    before = fast(x)
    fast.fc.scale.mul_(2)
    assert close(fast(x) - fast.fc.bias, 2 * (before - fast.fc.bias))
