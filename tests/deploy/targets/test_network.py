"""What all exporters start from."""

import pytest
import torch
from torch import nn

from rebnn_mm.deploy.file.card import ModelCard, Preprocessing
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.traced import InputSpec
from rebnn_mm.deploy.targets.network import Chain, chosen_network, example_inputs, graphs_in_order, network_of
from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.layers import ReBNNConv2d

IMAGES = InputSpec("float32", (None, 3, None, None), (0, 3, 1, 1), (None,) * 4)
TOKENS = InputSpec("int64", (None, None), (0, 1), (None,) * 2)


def test_sizes_come_from_the_call_or_the_card():
    card = ModelCard(preprocessing=Preprocessing((), (), size=(64, 96)))
    assert example_inputs([IMAGES], card, None)[0].shape == (1, 3, 64, 96)
    (x,) = example_inputs([IMAGES], card, (32, 40))
    assert x.shape == (1, 3, 32, 40)
    tokens = example_inputs([TOKENS, TOKENS], ModelCard(), None, 7)
    assert [t.shape for t in tokens] == [(1, 7)] * 2 and set(tokens[0].unique().tolist()) <= {0, 1}


def test_sizes_that_are_unknown_or_wrong_are_named():
    with pytest.raises(UserError, match=r"any size and its file names none: give the images' size: size=\(H, W\)"):
        example_inputs([IMAGES], ModelCard(), None)
    with pytest.raises(UserError, match="give the length of sequences: length=N"):
        example_inputs([TOKENS], ModelCard(), None)
    for size in ((0, 3), (1 << 20, 8), (8,), (8.0, 8)):
        with pytest.raises(UserError, match="height and width, 1 to 8192 pixels"):
            example_inputs([IMAGES], ModelCard(), size)
    with pytest.raises(UserError, match=r"an input of size=\(8, 8\) has the shape"):
        fixed = InputSpec("float32", (None, 3, 224, 224), (0, 3, 224, 224), (None,) * 4)
        example_inputs([fixed], ModelCard(), (8, 8))


def test_a_trained_model_needs_inputs_and_stays_as_it_is():
    model, x = nn.Sequential(ReBNNConv2d(8, 8, 3, padding=1), nn.ReLU()).eval(), torch.randn(2, 8, 6, 6)
    with pytest.raises(UserError, match=r"a Sequential can be exported with inputs=\[...\], or from its .rebnn file"):
        network_of(model)
    network = network_of(model, [x])
    assert isinstance(network, GraphNetwork) and isinstance(model[0], ReBNNConv2d)
    assert network_of(network) is network and graphs_in_order(network) == [network]
    with torch.no_grad():
        assert torch.equal(network(x), model(x))


def test_a_file_that_is_not_there_is_named(tmp_path):
    for find in (network_of, lambda path: chosen_network(path, None)):
        with pytest.raises(MissingFileError, match="gone.rebnn"):
            find(tmp_path / "gone.rebnn")


def test_parts_of_a_chain_may_return_dicts():
    class Maps(nn.Module):
        def forward(self, x):
            return dict(fine=x + 1, coarse=[x * 2])

    class Sum(nn.Module):
        def forward(self, fine, coarse):
            return fine - coarse

    x = torch.randn(2, 3)
    assert torch.equal(Chain([Maps(), Sum()])(x), x + 1 - x * 2)
