"""Networks that compute with the number of their images, as Swin's window attention does."""

import copy

import pytest
import torch
from torch import nn

from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, RebnnFileError, export_model, load_model
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.parts import Part, store_part
from rebnn_mm.errors import UserError


class Windows(nn.Module):
    """Cuts images in windows of 4x4 and puts them together again, in the words of OpenMMLab's Swin."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        _, height, width, _ = x.shape
        windows = self.first(x).unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).transpose(2, 3).flatten(0, 2)
        windows = self.inner(windows.flatten(1, 2))
        batch = int(windows.shape[0] / (height * width / 4 / 4))
        y = windows.view(batch, height // 4, width // 4, 4, 4, -1).transpose(2, 3).reshape(batch, height, width, -1)
        return {"map": y, "scores": [self.last(y.mean((1, 2)))], "masks": None, "stride": 4}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Windows()
    binarize(model)
    model(torch.randn(4, 8, 8, 3))
    return model.eval()


@pytest.fixture
def file(model, tmp_path):
    x = torch.randn(2, 8, 8, 3)
    report = export_model(
        model, tmp_path / "m.rebnn", check=Check([x, x[:1]]), parts=[Part("", [x], any_size=False, whole="network")]
    )
    assert "a graph of" in str(report.graphs)
    return tmp_path / "m.rebnn"


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_images_are_computed_one_by_one(model, file, batch):
    network, x = load_model(file), torch.randn(batch, 8, 8, 3)
    assert network.single and network.inputs[0].shape == (None, 8, 8, 3)
    expected, found = model(x), network(x)
    assert torch.equal(found["map"], expected["map"])
    torch.testing.assert_close(found["scores"][0], expected["scores"][0])
    assert (found["masks"], found["stride"]) == (None, 4)


def test_wrong_inputs_are_still_named(file):
    network = load_model(file)
    with pytest.raises(UserError, match=r"\(>=1, 8, 8, 3\)"):
        network(torch.randn(0, 8, 8, 3))
    with pytest.raises(UserError, match=r"\(>=1, 8, 8, 3\)"):
        network(torch.randn(2, 8, 4, 3))


def test_a_network_for_any_number_of_images_stays_one():
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    binarize(model, input_norm="layer")
    assert "single" not in store_part(model.eval(), Part("", [torch.randn(2, 3)])).record


def test_a_network_that_mixes_its_images_is_refused():
    class Mixing(Windows):
        def forward(self, x):
            return super().forward(x - x.mean(0))["map"]

    model = Mixing()
    binarize(model, input_norm="layer")
    with pytest.raises(UserError, match="other results for one image"):
        store_part(model.eval(), Part("", [torch.randn(2, 8, 8, 3)], any_size=False))


@pytest.mark.parametrize("value", ["yes", 2, None, [True]])
def test_a_malformed_mark_is_refused(model, value):
    stored = store_part(model, Part("", [torch.randn(2, 8, 8, 3)], any_size=False))
    tensors = {name: getattr(tensor, "bits", tensor) for name, tensor in stored.tensors.items()}
    assert GraphNetwork(stored.record, tensors).single
    with pytest.raises(RebnnFileError, match="malformed: single"):
        GraphNetwork(dict(copy.deepcopy(stored.record), single=value), tensors)


def test_a_mark_on_a_graph_for_any_number_is_refused():
    record = dict(inputs=[dict(dtype="float32", shape=[None, 3], least=[1, 3])], nodes=[], output={"input": 0})
    assert not GraphNetwork(record, {}).single
    with pytest.raises(RebnnFileError, match="malformed: single"):
        GraphNetwork(dict(record, single=True), {})
