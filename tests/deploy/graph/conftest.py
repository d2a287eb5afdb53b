"""Small networks and what is done with them."""

import pytest
import torch
from torch import nn

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.verify import copy_model


def settle(module, seed=0):
    """Norms, slopes and shifts as training leaves them: different in every channel, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            if part.weight is not None:
                part.weight.data.normal_(0.5, 1, generator=generator)
                part.bias.data.normal_(0, 0.3, generator=generator)
        for name, value in part.named_parameters(recurse=False):
            if name in ("shift", "bias") and value.dim() == 1:
                value.data.normal_(0, 0.3, generator=generator)
            if isinstance(part, nn.PReLU):
                value.data.uniform_(-0.2, 0.5, generator=generator)
    return module.eval()


@pytest.fixture
def packed():
    """``packed(module, *inputs)``: the module's fused graph and the network that runs it."""

    def make(module, *inputs, exact=True, any_size=None):
        traced = fuse(capture(lower(copy_model(module)), inputs, any_size))
        return traced, GraphNetwork(encode(traced), traced.tensors, exact)

    return make


def names(traced):
    """Names of the operators that a graph calls, in order."""
    return [row[0] for row in encode(traced)["nodes"]]
