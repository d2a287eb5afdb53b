"""The compared methods against formulas that do not use their code, in double precision."""

import math

import pytest
import torch
from mmengine.model import initialize
from mmengine.registry import MODELS
from torch import nn

from rebnn_mm import layers
from rebnn_mm.functional import sign
from rebnn_mm.layers import ReCUConv2d, binary_layers
from rebnn_mm.layers.recu import rectified_clamp

METHODS = ("Sign", "XNOR", "BiReal", "IRNet", "ReAct", "ReCU", "ReBNN")
DIMS = (1, 2, 3)


def mean_abs(w):
    return w.abs().mean(DIMS, keepdim=True)


def straight(w, value, surrogate):
    """``value`` in the forward, the derivative of ``surrogate`` in the backward."""
    return value.detach() + surrogate - surrogate.detach()


def sign_hat(w):
    return straight(w, sign(w), w.clamp(-1, 1))


def xnor_hat(w):
    return mean_abs(w) * sign_hat(w)


def bireal_hat(w):
    return mean_abs(w).detach() * sign_hat(w)


def react_hat(w):
    return straight(w, mean_abs(w) * sign(w), w.clamp(-1, 1))


def irnet_hat(w, t=0.1):
    m = w[0].numel()
    centred = w - w.sum(DIMS, keepdim=True) / m
    standard = centred / (centred.square().sum(DIMS, keepdim=True) / (m - 1)).sqrt()
    shift = torch.tensor([2.0 ** round(math.log2(float(s))) for s in mean_abs(standard).detach().flatten()])
    return shift.double().view(-1, 1, 1, 1) * straight(w, sign(standard), max(1 / t, 1) * torch.tanh(t * standard))


def recu_hat(w, tau=0.85):
    centred = w - w.mean(DIMS, keepdim=True)
    variance = centred.square().sum(DIMS, keepdim=True) / (w[0].numel() - 1)
    standard = centred / (variance + 1e-5).sqrt() * math.sqrt(8)
    bound = float(-standard.detach().abs().mean() * math.log(2 - 2 * tau))
    return mean_abs(w).detach() * straight(w, sign(standard), standard.clamp(-bound, bound))


W_HAT = dict(
    Sign=sign_hat, XNOR=xnor_hat, BiReal=bireal_hat, IRNet=irnet_hat, ReAct=react_hat, ReCU=recu_hat, ReBNN=bireal_hat
)


def conv(method, *args, **kwargs):
    return MODELS.get(f"{method}Conv2d")(*args, **kwargs)


@pytest.mark.parametrize("method", METHODS)
def test_value_and_weight_gradient_equal_the_paper(method):
    torch.manual_seed(0)
    layer = conv(method, 3, 4, 3, padding=1, bias=False).double()
    layer.weight.data.mul_(6).add_(0.3)  # some weights outside [-1, 1], channels off centre
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    seed = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    layer(x).backward(seed)
    w = layer.weight.detach().clone().requires_grad_()
    expected = nn.functional.conv2d(sign(x), W_HAT[method](w), padding=1)
    expected.backward(seed)
    assert 0 < (w.abs() <= 1).double().mean() < 1
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.weight.grad, w.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_output_is_scale_times_the_integer_convolution_bit_for_bit(method):
    torch.manual_seed(0)
    layer = conv(method, 4, 6, 3, stride=2, padding=1, groups=2, bias=True)
    layer.weight.data.add_(0.05)
    x = torch.randn(2, 4, 9, 8)
    b, scale = layer.binary_weight(), layer.scale()
    assert set(b.unique().tolist()) == {-1.0, 1.0} and not b.requires_grad
    counts = nn.functional.conv2d(sign(x), b, stride=2, padding=1, groups=2)
    assert torch.equal(counts, counts.round())
    if method == "Sign":
        assert scale is None
        scale = torch.ones(6, 1, 1, 1)
    assert scale.shape == (6, 1, 1, 1) and not scale.requires_grad
    assert torch.equal(layer(x), counts * scale.view(-1, 1, 1) + layer.bias.view(-1, 1, 1))


@pytest.mark.parametrize("method", METHODS)
def test_linear_layer_is_the_1x1_convolution(method):
    torch.manual_seed(0)
    linear, pointwise = MODELS.get(f"{method}Linear")(6, 3), conv(method, 6, 3, 1)
    pointwise.load_state_dict({k: v if k == "bias" else v.view(*v.shape, 1, 1) for k, v in linear.state_dict().items()})
    x = torch.randn(5, 6)
    torch.testing.assert_close(linear(x), pointwise(x[..., None, None]).flatten(1))
    linear(x).square().sum().backward()
    pointwise(x[..., None, None]).square().sum().backward()
    torch.testing.assert_close(linear.weight.grad, pointwise.weight.grad.flatten(1))


@pytest.mark.parametrize("method", METHODS)
def test_loads_a_real_valued_checkpoint(method):
    plain, layer = nn.Conv2d(4, 6, 3), conv(method, 4, 6, 3)
    assert not any(layer.load_state_dict(plain.state_dict()))
    assert torch.equal(layer.weight, plain.weight)
    rest = {"alpha", "gamma"} if method == "ReBNN" else {"alpha"} if method == "ReCU" else set()
    assert set(layer.state_dict()) == {"weight", "bias"} | rest


@pytest.mark.parametrize("method", METHODS)
def test_layer_trains(method):
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(method, 2, 16, 3, padding=1), nn.BatchNorm2d(16), conv(method, 16, 16, 3, padding=1), nn.BatchNorm2d(16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    # horizontal or vertical stripes, at a random phase
    phase, label = torch.randint(0, 2, (96,)), torch.randint(0, 2, (96,))
    stripes = ((torch.arange(8)[None] + phase[:, None]) % 2 * 2.0 - 1)[:, None, None].expand(-1, 2, 8, -1)
    x = torch.where(label.view(-1, 1, 1, 1).bool(), stripes, stripes.transpose(2, 3)) + 1.5 * torch.randn(96, 2, 8, 8)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), label)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.4 * losses[0], losses[::10]


@pytest.mark.parametrize("method", METHODS)
def test_options_of_the_base_hold_for_every_method(method):
    x = torch.randn(1, 4, 5, 5)
    weight_only = conv(method, 4, 4, 3, weight_only=True, bias=False)
    scale = weight_only.scale()
    expected = nn.functional.conv2d(x, weight_only.binary_weight())
    assert torch.equal(weight_only(x), expected if scale is None else expected * scale.view(-1, 1, 1))
    stage1 = conv(method, 4, 4, 3, activation_only=True, bias=False)
    assert torch.equal(stage1(x), nn.functional.conv2d(sign(x), stage1.weight))
    assert set(stage1.state_dict()) == {"weight"}
    assert list(binary_layers(nn.Sequential(weight_only, stage1))) == ["0"]
    for member in (stage1.binary_weight, stage1.scale):
        with pytest.raises(ValueError, match="real-valued weights"):
            member()
    with pytest.raises(ValueError, match=f"{method}Conv2d: .* nothing 1-bit"):
        conv(method, 4, 4, 3, weight_only=True, activation_only=True)
    assert conv(method, 4, 4, 3, padding=1, shortcut=True).shortcut and "W1A1" in repr(conv(method, 4, 4, 3))


@pytest.mark.parametrize("method", METHODS)
def test_mmengine_initialises_it_as_a_convolution(method):
    layer = nn.Sequential(conv(method, 4, 4, 3), MODELS.get(f"{method}Linear")(4, 4))
    initialize(layer, dict(type="Constant", val=3.0, layer=["Conv2d", "Linear"]))
    assert all((part.weight == 3).all() for part in layer)


def test_every_public_layer_is_tested_here():
    made = {name.removesuffix("Conv2d") for name in layers.__all__ if name.endswith("Conv2d")} - {"Binary"}
    assert made == set(METHODS)


def test_awkward_weights():
    irnet = conv("IRNet", 1, 2, 2, bias=False)
    irnet.weight.data[0] = 0.5  # a channel without variance
    irnet(torch.randn(1, 1, 4, 4)).sum().backward()
    assert irnet.scale()[0] == 0 and torch.isfinite(irnet(torch.randn(1, 1, 4, 4))).all()
    assert torch.isfinite(irnet.weight.grad[1]).all()
    mantissa, _ = torch.frexp(irnet.scale()[1])
    assert mantissa == 0.5  # a power of two, exactly
    for method in ("IRNet", "ReCU"):
        with pytest.raises(ValueError, match=f"{method}Conv2d: one weight an output channel"):
            conv(method, 4, 4, 1, groups=4)
    react = conv("ReAct", 1, 2, 2, bias=False)
    react.weight.data[0] = 0
    react(torch.randn(1, 1, 4, 4)).sum().backward()
    assert (react.weight.grad[0] == 0).all() and (react.weight.grad[1] != 0).any()


def test_recu_clamps_the_tail_and_keeps_every_sign():
    w = torch.distributions.Laplace(0.0, 1.0).sample((200_000,))
    for tau in (0.6, 0.85, 0.99):
        clamped = rectified_clamp(w, tau)
        assert torch.equal(sign(clamped), sign(w))
        share = (w <= clamped.max() - 1e-6).double().mean()
        assert abs(share - tau) < 5e-3  # the tau-quantile of a Laplace distribution
    layer = ReCUConv2d(8, 8, 3)
    before = layer.binary_weight()
    layer.tau = 0.99
    assert torch.equal(layer.binary_weight(), before)
