"""Which modules of a head become graphs, and how they come back."""

from dataclasses import replace

import pytest
import torch
from graph_toys import settle
from torch import nn

from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.deploy.file.container import RebnnFileError, read_file
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.parts import Part, find_inputs
from rebnn_mm.deploy.graph.towers import find_towers
from rebnn_mm.deploy.model.weights import Weights
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear


def block(cin=4, cout=4):
    return nn.Sequential(ReBNNConv2d(cin, cout, 3, padding=1, input_norm=True), nn.BatchNorm2d(cout), nn.ReLU())


class Head(nn.Module):
    """Two towers, one of which hands out what is between its blocks; a helper that others call; a shared weight."""

    def __init__(self):
        super().__init__()
        self.tower = nn.ModuleList(block() for _ in range(3))
        self.between = nn.ModuleList(block() for _ in range(2))
        self.levels = nn.ModuleList(nn.ModuleList(block() for _ in range(2)) for _ in range(2))
        for first, second in zip(*self.levels, strict=True):
            second[0] = first[0]
        self.read = block()
        self.mlp = nn.Sequential(ReBNNLinear(4, 8, input_norm=True), nn.ReLU(), ReBNNLinear(8, 4))
        self.predictor = nn.Conv2d(4, 2, 1)

    def forward(self, x, scale=1.0):
        y, kept = x, []
        for conv in self.tower:
            y = conv(y)
        for conv in self.between:
            y = conv(y)
            kept.append(y)
        for level in self.levels:
            for conv in level:
                y = conv(y)
        y = self.read(y) * self.read[0].weight.numel()  # more than its forward
        tokens = self.mlp(y.flatten(2).transpose(1, 2))
        return self.predictor(y) * scale, tokens, sum(kept)

    def predict(self, x):
        return self(x, scale=2.0)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = block(), Head()

    def forward(self, x):
        return self.head.predict(self.backbone(x))


def parts_of(model, x):
    return [replace(part, any_size=True) for part in find_towers(model, ["head"], lambda m: m(x))]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return settle(Detector())


def test_chains_and_blocks_are_towers_and_what_is_used_otherwise_is_not(model):
    before = [id(module) for module in model.modules()]
    names = [part.name for part in parts_of(model, torch.randn(2, 4, 8, 12))]
    assert names == [
        *("head.tower", "head.mlp", "head.between.0", "head.between.1", "head.levels.0", "head.levels.1"),
    ]
    assert [id(module) for module in model.modules()] == before


@pytest.mark.slow
def test_towers_are_graphs_for_any_size_under_their_own_names(tmp_path, model):
    x, path = torch.randn(2, 4, 8, 12), tmp_path / "m.rebnn"
    check = Check([x, torch.randn(1, 4, 5, 3)], lambda m, x: m(x), exact=True)
    report = export_model(model, path, check=check, parts=parts_of(model, x))
    assert "head.tower: a graph of 3 operators, 3 of them 1-bit" in report.graphs
    packed = load_model(path, model=Detector())
    assert isinstance(packed.head.tower[0], GraphNetwork) and len(packed.head.tower) == 1
    with torch.no_grad():
        assert all(map(torch.equal, packed(x), model(x)))


@pytest.mark.slow
def test_a_weight_in_two_graphs_is_stored_once(tmp_path, model):
    export_model(model, tmp_path / "m.rebnn", parts=parts_of(model, torch.randn(2, 4, 8, 12)))
    file = read_file(tmp_path / "m.rebnn")
    assert file.info["shared"] == {
        "head.levels.1.0.0.weight": "head.levels.0.0.0.weight",
        "head.levels.1.1.0.weight": "head.levels.0.1.0.weight",
    }
    for shared in (["a"], {"a": "head"}, {"a": 1}, {"head.tower.0.0.weight": "head.levels.0.0.0.weight"}):
        file.info["shared"] = shared
        with pytest.raises(RebnnFileError, match="shared|does not fit"):
            Weights(file)


@pytest.mark.slow
def test_rounding_in_front_of_a_chain_is_no_fault_of_the_chain(tmp_path, model):
    """Where outputs differ, each 1-bit part is compared with the trained one of its name: a chain's is the chain."""

    def forward(detector, x):
        rounding = 1e-6 * isinstance(detector.head.tower[0], GraphNetwork)
        return detector.backbone(x), detector(x)[0] + rounding

    x = torch.randn(2, 4, 8, 12)
    report = export_model(model, tmp_path / "m.rebnn", check=Check([x], forward), parts=parts_of(model, x))
    assert 0 < report.differences[0].relative < 1e-4


class Neck(nn.Module):
    """Takes its maps in a tuple, as those of detectors do."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(block() for _ in range(2))

    def forward(self, maps):
        return tuple(conv(x) for conv, x in zip(self.convs, maps, strict=True))


@pytest.mark.parametrize("error", [1e-6, 1e-2])
def test_rounding_in_front_of_a_part_that_takes_a_tuple(tmp_path, error):
    torch.manual_seed(0)
    model, x = settle(nn.ModuleDict(dict(neck=Neck()))), torch.randn(2, 4, 8, 12)

    def forward(m, x):
        rounded = x + error * isinstance(m["neck"], GraphNetwork)
        return rounded, m["neck"]((rounded, rounded[..., ::2]))

    parts, check = find_inputs(model, ["neck"], lambda m: forward(m, x)), Check([x], forward)
    if error > 1e-4:
        with pytest.raises(UserError, match="real-valued parts in front of neck"):
            export_model(model, tmp_path / "m.rebnn", check=check, parts=parts)
        return
    report = export_model(model, tmp_path / "m.rebnn", check=check, parts=parts)
    assert 0 < report.differences[0].relative < 1e-4


class ValueDependent(nn.Module):
    """A backbone that no graph can hold, made of blocks that can be one."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(block(), block())

    def forward(self, x):
        return self.stages(x) if x.sum() > 1e9 else self.stages(x) * 2


def test_smaller_parts_are_taken_of_one_that_cannot_be_captured(tmp_path):
    torch.manual_seed(0)
    model, x = settle(nn.ModuleDict(dict(backbone=ValueDependent()))), torch.randn(2, 4, 8, 8)

    def run(m):
        return m["backbone"](x)

    part = Part("backbone", [x], within=lambda: find_towers(model, ["backbone"], run))
    report = export_model(model, tmp_path / "m.rebnn", check=Check([x], lambda m, x: m["backbone"](x)), parts=[part])
    assert "backbone.stages: a graph of 2 operators, 2 of them 1-bit" in report.graphs
    assert "backbone is packed layer by layer: ValueDependent cannot be captured" in report.graphs[1]


@pytest.mark.slow
def test_a_layer_in_a_graph_and_outside_of_it_is_stored_for_both(tmp_path, model):
    x = torch.randn(2, 4, 8, 12)
    parts = [part for part in parts_of(model, x) if part.name != "head.levels.1"]
    export_model(model, tmp_path / "m.rebnn", check=Check([x], lambda m, x: m(x), exact=True), parts=parts)
    packed = load_model(tmp_path / "m.rebnn", model=Detector())
    with torch.no_grad():
        assert all(map(torch.equal, packed(x), model(x)))


class Boxes(nn.Module):
    """As of DAB-DETR: used within the decoder's layers, (N, Q, C), and on the states of all together, (L, N, Q, C)."""

    def __init__(self):
        super().__init__()
        self.regress = nn.Sequential(nn.Sequential(ReBNNLinear(4, 8, input_norm=True), nn.ReLU()), ReBNNLinear(8, 4))
        self.query = nn.Sequential(ReBNNLinear(4, 4, input_norm=True), nn.ReLU())

    def forward(self, x, layers=2):
        queries = [x.flatten(2).transpose(1, 2)[:, :6]]
        for _ in range(layers):
            queries.append(self.query(queries[-1]) + self.regress(queries[-1]))
        return self.regress(torch.stack(queries))

    def predict(self, x):
        return self(x)


def test_a_module_called_with_several_ranks_stays_as_it_is_and_says_why(tmp_path):
    torch.manual_seed(0)
    model, x = settle(nn.ModuleDict(dict(head=Boxes()))), torch.randn(2, 4, 4, 4)
    parts = find_towers(model, ["head"], lambda m: m["head"](x))
    assert [part.name for part in parts if not part.refused] == ["head.query"]
    check = Check([x, x[:1]], lambda m, x: m["head"](x), exact=True)
    report = export_model(model, tmp_path / "m.rebnn", check=check, parts=parts)
    reason = "it is called with inputs of 3 dimensions and of 4 dimensions, and a graph is for one"
    assert report.graphs[1:] == (f"head.regress is packed layer by layer: {reason}",)


def test_a_rank_that_only_another_use_has_is_seen():
    torch.manual_seed(0)
    model, x = settle(nn.ModuleDict(dict(head=Boxes()))), torch.randn(2, 4, 4, 4)

    def first(m):
        return m["head"].regress(x[0])

    def other(m):
        return m["head"].regress(x)

    (part,) = find_towers(model, ["head"], first, other)
    assert part.name == "head.regress" and part.refused


def test_sizes_that_differ_between_the_calls_of_one_use_stay_open(tmp_path):
    model = settle(nn.ModuleDict(dict(head=nn.Sequential(block()))))

    def run(m):
        return [m["head"][0](torch.ones(2, 4, size, 6)) for size in (8, 4)]

    (part,) = find_towers(model, ["head"], run, run)
    assert part.open_sizes == [{2}]
