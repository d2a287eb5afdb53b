import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rebnn_mm.functional import scale_init, sign
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear, binary_layers


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    size=st.integers(5, 9),
    bias=st.booleans(),
)
def test_forward_is_alpha_times_the_convolution_of_signs(groups, stride, padding, dilation, mode, size, bias):
    options = dict(groups=groups, stride=stride, padding=padding, dilation=dilation, padding_mode=mode, bias=bias)
    layer = ReBNNConv2d(4, 8, 3, **options)
    x = torch.randn(2, 4, size, size + 1)
    plain = nn.Conv2d(4, 8, 3, **options)
    plain.weight.data = sign(layer.weight.data)
    if bias:
        plain.bias.data.zero_()
    expected = plain(sign(x)) * layer.alpha.view(-1, 1, 1)
    if bias:
        expected = expected + layer.bias.view(-1, 1, 1)
    assert torch.equal(layer(x), expected)


def test_gradients_equal_the_paper_in_double_precision():
    torch.manual_seed(0)
    layer = ReBNNConv2d(3, 4, 3, padding=1).double()
    layer.weight.data.mul_(8)  # some weights outside [-1, 1]
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    seed = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    layer(x).backward(seed)
    w, alpha = layer.weight.detach(), layer.alpha.detach().view(-1, 1, 1, 1)
    b = sign(w)
    w_hat = (alpha * b).requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.conv2d(sign(x), w_hat, padding=1), w_hat, seed)
    assert 0 < (w.abs() <= 1).double().mean() < 1
    torch.testing.assert_close(layer.weight.grad, alpha * grad * (w.abs() <= 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.alpha.grad, (grad * b).sum((1, 2, 3)), rtol=1e-12, atol=1e-12)


def test_linear_forward_and_shapes():
    layer = ReBNNLinear(6, 3, bias=True)
    x = torch.randn(2, 5, 6)
    assert layer.alpha.shape == (3,) and layer.gamma.shape == (3, 1)
    y = nn.functional.linear(sign(x), sign(layer.weight)) * scale_init(layer.weight).flatten() + layer.bias
    assert torch.equal(layer(x), y)


def test_alpha_follows_an_initialiser_that_runs_after_the_constructor():
    layer = ReBNNConv2d(4, 4, 3)
    nn.init.normal_(layer.weight, std=5)
    layer(torch.randn(1, 4, 5, 5))
    assert torch.equal(layer.alpha.detach(), scale_init(layer.weight.detach()).flatten())
    layer.alpha.data.fill_(7)
    layer(torch.randn(1, 4, 5, 5))
    assert (layer.alpha == 7).all()


def test_alpha_follows_real_weights_from_a_checkpoint_and_keeps_its_own():
    plain, layer = nn.Conv2d(4, 4, 3, bias=False), ReBNNConv2d(4, 4, 3, bias=False)
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.alpha.detach(), scale_init(plain.weight.detach()).flatten())
    layer.alpha.data.fill_(7)
    other = ReBNNConv2d(4, 4, 3, bias=False)
    other.load_state_dict(layer.state_dict())
    other(torch.randn(1, 4, 5, 5))
    assert (other.alpha == 7).all()


def test_one_sided_layers():
    x = torch.randn(1, 4, 5, 5)
    weight_only = ReBNNConv2d(4, 4, 3, weight_only=True, bias=False)
    expected = nn.functional.conv2d(x, weight_only.binary_weight()) * weight_only.alpha.view(-1, 1, 1)
    assert torch.equal(weight_only(x), expected)
    activation_only = ReBNNConv2d(4, 4, 3, activation_only=True, bias=False)
    assert torch.equal(activation_only(x), nn.functional.conv2d(sign(x), activation_only.weight))
    assert set(activation_only.state_dict()) == {"weight"}
    assert list(binary_layers(nn.Sequential(weight_only, activation_only))) == ["0"]
    with pytest.raises(ValueError, match="real-valued weights"):
        activation_only.binary_weight()
    with pytest.raises(ValueError, match="nothing 1-bit"):
        ReBNNConv2d(4, 4, 3, weight_only=True, activation_only=True)


def test_input_norm_keeps_information_behind_a_relu():
    x = torch.rand(8, 4, 6, 6)
    assert ReBNNConv2d(4, 4, 1)(x).flatten(2).std(dim=2).max() == 0  # every sign is +1
    assert ReBNNConv2d(4, 4, 1, input_norm=True)(x).flatten(2).std(dim=2).min() > 0


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (dict(kernel_size=3, padding=1), True),
        (dict(kernel_size=1), True),
        (dict(kernel_size=3, padding=2, dilation=2, groups=2), True),
        (dict(kernel_size=(1, 5), padding="same"), True),
        (dict(kernel_size=3), False),
        (dict(kernel_size=3, padding=1, stride=2), False),
        (dict(kernel_size=3, padding=1, out_channels=6), False),
    ],
)
def test_shortcut_adds_the_input_where_the_shape_is_kept(options, kept):
    torch.manual_seed(0)
    options = dict(in_channels=4, out_channels=4) | options
    layer, plain = ReBNNConv2d(shortcut=True, **options), ReBNNConv2d(**options)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 7, 6)
    assert torch.equal(layer(x), plain(x) + x if kept else plain(x))
