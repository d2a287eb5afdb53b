"""Weights that are split over processes: 1-bit layers train under FSDP2, what reads whole weights refuses it."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from rebnn_mm.balance import Balance
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReActConv2d, ReBNNConv2d


@pytest.fixture
def mesh(tmp_path):
    """One process of gloo: what refuses and what trains does not depend on their number."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def network(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), layer(8, 8, 3, bias=False), nn.PReLU(8))


def step(model):
    """Weights after one update."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    torch.manual_seed(1)
    model(torch.randn(4, 3, 9, 9)).square().sum().backward()
    optimizer.step()
    return optimizer, [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("layer", [ReActConv2d, ReBNNConv2d])
def test_layers_train_under_fsdp2_and_balance_refuses(mesh, layer):
    _, expected = step(network(layer))
    model = network(layer)
    fully_shard(model, mesh=mesh)
    optimizer, weights = step(model)
    for weight, other in zip(weights, expected, strict=True):
        assert torch.equal(weight.full_tensor(), other)
    if layer is ReBNNConv2d:
        with pytest.raises(UserError, match="'1' is split over processes.*use DistributedDataParallel"):
            Balance(optimizer, model)


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")
def test_flat_parameters_are_refused(mesh):
    with pytest.raises(UserError, match="FSDP's flat parameters"):
        FullyShardedDataParallel(network(ReBNNConv2d), device_id=torch.device("cpu"))
