"""Real-valued layers of a program in 8 bits: which ones, and that nothing in front of a sign is among them."""

import pytest
import torch
from cpp_runtime import NEEDS
from graph_toys import settle
from torch import nn

from rebnn_mm.deploy.targets.executorch.export import edge_module, export_executorch
from rebnn_mm.deploy.targets.executorch.int8 import with_int8_linears, with_int8_rest
from rebnn_mm.deploy.targets.executorch.program import load_executorch
from rebnn_mm.deploy.targets.network import network_of
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear

pytestmark = NEEDS


class Net(nn.Module):
    """Real-valued layers in front of a 1-bit one, far in front of one, and behind; one of these on two maps."""

    def __init__(self):
        super().__init__()
        self.first, self.side = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.binary = ReBNNConv2d(16, 16, 3, padding=1)
        self.last, self.head, self.fc = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 6, 1), nn.Linear(24, 5)

    def forward(self, x):
        y = self.first(x)
        y = self.binary(self.side(y).sigmoid() * y)
        y = self.last(y).relu()
        z = nn.functional.max_pool2d(y, 2)
        return self.head(y), self.head(z), self.fc(y.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return settle(Net())


def images(number):
    generator = torch.Generator().manual_seed(3)
    return [[torch.randn(1, 8, 16, 16, generator=generator)] for _ in range(number)]


def test_what_a_sign_reads_is_left_and_the_program_agrees(net, built, tmp_path):
    (x,), *_ = samples = images(4)
    report = export_executorch(net, tmp_path / "m.pte", inputs=[x], calibrate=samples, verify=samples)
    text = str(report)
    assert "forward in 8 bits, by 4 inputs: convolution 3x3, 16 -> 24 channels; 2 times convolution 1x1, 24 ->" in text
    assert "linear layer 24 -> 5" in text
    for name in ("convolution 3x3, 8 -> 16 channels", "convolution 1x1, 16 -> 16 channels"):
        assert f"left in float: {name}, which a 1-bit layer reads" in text
    found = load_executorch(tmp_path / "m.pte")(x)
    for ours, theirs in zip(found, net(x), strict=True):
        assert 0 < (ours - theirs).norm() < 0.05 * theirs.norm()  # rounded, and little
    with pytest.raises(UserError, match="--int8-rest rounds linear layers, too: leave out --int8-linear"):
        export_executorch(net, tmp_path / "m.pte", inputs=[x], calibrate=samples, int8_linear=True)


def test_a_sign_behind_all_layers_leaves_all(built):
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU(), ReBNNConv2d(8, 8, 1)))
    (x,), *_ = samples = images(2)
    edge = edge_module([network_of(net, [x])], [x])
    same, report = with_int8_rest(edge, [x], samples)
    assert same is edge and report.taken == () and len(report.left) == 1
    assert "no layer, as 1-bit layers read all of them" in report.lines("forward", 2)[0]


def test_attention_on_bits_counts_as_signs(built):
    class Compared(nn.Module):
        def __init__(self):
            super().__init__()
            self.binary, self.fc, self.out = ReBNNLinear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.out((self.fc(self.binary(x)) >= 0).float())

    torch.manual_seed(0)
    x = torch.randn(1, 5, 16)
    edge = edge_module([network_of(Compared().eval(), [x])], [x])
    _, report = with_int8_rest(edge, [x], [[x]])
    assert report.taken == ("linear layer 16 -> 4",)
    assert with_int8_linears(edge, [x]) is not edge
