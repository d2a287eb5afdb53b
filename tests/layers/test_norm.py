"""The norms in front of a sign: every shape, small batches, and what other libraries do to the norms they find."""

import copy

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from torch import nn
from torch.fx import symbolic_trace

from rebnn_mm.layers import InputLayerNorm, InputNorm, ReBNNConv2d, ReBNNLinear


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (2, 3, 4, 6), (2, 1, 3, 4, 6)])
@pytest.mark.parametrize("mode", [True, False])
def test_a_linear_layers_norm_is_torchs_over_its_last_axis(shape, mode):
    torch.manual_seed(0)
    norm, reference = InputNorm(6, last_axis=True).train(mode), nn.BatchNorm1d(6, affine=False).train(mode)
    for _ in range(2):
        x = torch.randn(shape) * 3 + 1
        y = norm(x)
        assert torch.equal(y, reference(x.reshape(-1, 6)).view(shape))
    assert torch.equal(norm.running_var, reference.running_var)
    assert norm.num_batches_tracked == reference.num_batches_tracked


@pytest.mark.parametrize("mode", [True, False])
def test_a_convolutions_norm_is_torchs_and_takes_one_image_without_a_batch(mode):
    torch.manual_seed(0)
    norm, reference = InputNorm(4).train(mode), nn.BatchNorm2d(4, affine=False).train(mode)
    x = torch.randn(2, 4, 5, 3)
    assert torch.equal(norm(x), reference(x))
    assert torch.equal(norm(x[0]), reference(x[:1])[0])


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 5, 4), (2, 3, 5, 4)])
@pytest.mark.parametrize("norm", [True, "layer"])
def test_linear_layers_take_every_shape(shape, norm):
    layer = ReBNNLinear(4, 3, input_norm=norm)
    for mode in (True, False):
        layer.train(mode)
        y = layer(torch.randn(shape))
        assert y.shape == (*shape[:-1], 3) and y.isfinite().all()


def test_non_contiguous_maps_of_nhwc_networks():
    layer = ReBNNLinear(4, 3, input_norm=True)
    x = torch.randn(2, 4, 5, 3).permute(0, 2, 3, 1)
    assert torch.equal(layer.eval()(x), layer(x.contiguous()))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_values_take_the_running_statistics(count):
    norm = InputNorm(4, last_axis=True)
    norm(torch.randn(50, 4) + 3)
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(count, 4)
    assert torch.equal(norm(x), copy.deepcopy(norm).eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_a_batch_of_two_trains():
    layer = ReBNNLinear(4, 3, input_norm=True)
    (layer(torch.randn(2, 4)) * torch.tensor([[1.0], [2.0]])).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_initialisers_and_norm_eval_pass_it_by():
    model = nn.Sequential(
        ReBNNConv2d(4, 4, 1, input_norm=True),
        ReBNNLinear(4, 4, input_norm=True),
        ReBNNLinear(4, 4, input_norm="layer"),
        nn.BatchNorm2d(4),
    )
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
            nn.init.constant_(module.weight, 1)  # as CenterNet and Conformer do
            nn.init.constant_(module.bias, 0)
            module.eval()  # as norm_eval=True does
    assert model[0].input_norm.training and model[1].input_norm.training and not model[3].training


def test_conversion_to_synchronised_norms_leaves_it_and_its_axis():
    model = nn.Sequential(ReBNNLinear(4, 4, input_norm=True), nn.BatchNorm1d(5))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted[0].input_norm) is InputNorm and type(converted[1]) is nn.SyncBatchNorm
    assert type(revert_sync_batchnorm(converted)[0].input_norm) is InputNorm
    converted[0](torch.randn(2, 5, 4))


def test_an_average_without_momentum_is_torchs():
    norm, reference = InputNorm(4, last_axis=True, momentum=None), nn.BatchNorm1d(4, affine=False, momentum=None)
    for scale in (1, 2, 3):
        x = torch.randn(8, 4) * scale
        assert torch.equal(norm(x), reference(x))
    torch.testing.assert_close(norm.running_var, reference.running_var)
    assert torch.equal(norm.eval()(x), reference.eval()(x))


def test_names_in_state_dicts_are_those_of_batch_norms():
    layer = ReBNNLinear(4, 3, input_norm=True)
    stored = {f"input_norm.{name}": value for name, value in nn.BatchNorm1d(4, affine=False).state_dict().items()}
    assert stored.keys() <= layer.state_dict().keys()
    assert not layer.load_state_dict({**layer.state_dict(), **stored}).unexpected_keys


def test_layer_norm_is_torchs():
    x = torch.randn(2, 3, 4)
    assert torch.equal(InputLayerNorm(4)(x), nn.LayerNorm(4, elementwise_affine=False)(x))


@pytest.mark.parametrize("last_axis", [True, False])
def test_it_is_one_operation_for_fx_and_exports(last_axis):
    norm = InputNorm(4, last_axis=last_axis)
    x = torch.randn(2, 3, 4) if last_axis else torch.randn(2, 4, 3, 3)
    norm(x)
    norm.eval()
    assert torch.equal(symbolic_trace(nn.Sequential(norm))(x), norm(x))
    assert torch.equal(torch.export.export(norm, (x,)).module()(x), norm(x))
