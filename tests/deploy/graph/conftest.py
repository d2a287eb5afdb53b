"""Small networks and what is done with them."""

import copy

import pytest

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode


@pytest.fixture
def packed():
    """``packed(module, *inputs)``: the module's fused graph and the network that runs it."""

    def make(module, *inputs, exact=True, any_size=None):
        traced = fuse(capture(lower(copy.deepcopy(module)), inputs, any_size))
        return traced, GraphNetwork(encode(traced), traced.tensors, exact)

    return make
