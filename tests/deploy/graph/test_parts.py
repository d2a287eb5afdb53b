"""Parts of a model as graphs: how they are called, and blocks in their code."""

from dataclasses import replace

import pytest
import torch
from graph_toys import settle
from torch import nn

from rebnn_mm.deploy.export import export_model
from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.parts import find_inputs, store_part
from rebnn_mm.deploy.load import load_model
from rebnn_mm.deploy.verify import Check
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear


class Pyramid(nn.Module):
    """A neck: it takes a tuple of levels."""

    def __init__(self, levels):
        super().__init__()
        self.convs = nn.ModuleList(ReBNNConv2d(4, 4, 3, padding=1, input_norm=True) for _ in range(levels))

    def forward(self, levels, scale=1.0):
        assert len(levels) == len(self.convs)
        return [conv(level) * scale for conv, level in zip(self.convs, levels, strict=True)]


class Detector(nn.Module):
    def __init__(self, levels, **keywords):
        super().__init__()
        self.neck, self.levels, self.keywords = Pyramid(levels), levels, keywords

    def forward(self, x):
        return self.neck(tuple(x[:, :, :: 2**i, :: 2**i] for i in range(self.levels)), **self.keywords)


@pytest.mark.parametrize("levels", [1, 3])
def test_a_part_is_called_as_the_model_calls_it(tmp_path, levels):
    model, x = settle(Detector(levels)), torch.randn(2, 4, 16, 24)
    parts = find_inputs(model, ["neck"], lambda m: m(x))
    report = export_model(
        model, tmp_path / "m.rebnn", check=Check([x, x[:1, :, :9, :11]], lambda m, x: m(x)), parts=parts
    )
    assert f"{levels} of them 1-bit" in report.graphs[0]
    packed = load_model(tmp_path / "m.rebnn", model=Detector(levels))
    with torch.no_grad():
        assert all(map(torch.equal, packed(x), model(x)))


def test_a_part_that_takes_more_than_tensors_is_no_graph():
    model = settle(Detector(2, scale=0.5))
    assert find_inputs(model, ["neck"], lambda m: m(torch.randn(2, 4, 16, 16))) == []


class Layered(nn.Module):
    """Outputs of several layers at once: the batch is no more the first dimension."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(ReBNNLinear(4, 4, input_norm=True), nn.ReLU())

    def forward(self, x):
        return self.embed(torch.stack([x, x + 1, x * 2]).flatten(3).transpose(2, 3))


def test_a_second_run_tells_which_sizes_change():
    model = settle(Layered())
    x, y = torch.randn(2, 4, 6, 8), torch.randn(1, 4, 5, 3)
    (part,) = find_inputs(model, ["embed"], lambda m: m(x), lambda m: m(y))
    spec = store_part(model, replace(part, any_size=True)).record["inputs"][0]
    assert spec["shape"] == (None, None, None, 4)


def test_a_size_of_one_that_changes_is_taken_from_another_run():
    model = settle(Layered())
    one, more = torch.randn(1, 4, 6, 8), torch.randn(2, 4, 6, 8)
    (part,) = find_inputs(model, ["embed"], lambda m: m(one), lambda m: m(more))
    assert part.inputs[0].shape == (3, 2, 48, 4) and part.open_sizes == [{1}]
    embed = nn.ModuleDict(dict(embed=model.embed))
    runs = [lambda m: m["embed"](torch.randn(1, 3, 4)), lambda m: m["embed"](torch.randn(3, 1, 4))]
    assert find_inputs(embed, ["embed"], *runs) == []


class Blocks(nn.Module):
    """Code of networks that is written for training: a part without gradients, one in full precision."""

    def __init__(self, autocast=False):
        super().__init__()
        self.first, self.last, self.autocast = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), autocast

    def forward(self, x):
        with torch.no_grad():
            x = self.first(x)
        with torch.autocast("cuda", enabled=False):
            with torch.no_grad():
                y = self.last(x).relu_()
            x.mul_(2)
        with torch.autocast("cpu", enabled=self.autocast):
            return self.last(y) + x, y


@pytest.mark.slow
def test_blocks_of_the_network_s_code_are_part_of_the_graph(packed):
    torch.manual_seed(0)
    model = settle(Blocks())
    _, network = packed(model, torch.randn(2, 3, 8, 8))
    x = torch.randn(3, 3, 9, 7)
    with torch.no_grad():
        assert all(map(torch.equal, network(x), model(x)))


def test_a_block_in_lower_precision_is_refused():
    with pytest.raises(UserError, match="a block under torch.autocast"):
        capture(Blocks(autocast=True), [torch.randn(2, 3, 8, 8)])
