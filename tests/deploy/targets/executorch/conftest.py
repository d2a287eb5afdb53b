"""Small networks, fused, and their edge form."""

import copy

import pytest
import torch

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.targets.executorch.edge import edge_form
from rebnn_mm.deploy.targets.executorch.lowering import as_taken


@pytest.fixture
def edge():
    """``edge(module, *inputs)``: (the packed network, its edge form, inputs as programs take them)."""

    def make(module, *inputs):
        batch = [torch.cat([x, x]) for x in inputs]
        traced = fuse(capture(lower(copy.deepcopy(module)), batch))
        network = GraphNetwork(encode(traced), traced.tensors, exact=False)
        taken = [as_taken(x) for x in inputs]
        return network, edge_form(network.traced(), taken), taken

    return make
