"""The one function of a 1-bit layer beside the layer composed of torch's operations."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rebnn_mm import native
from rebnn_mm.deploy.kernels.library import isas, use_isa
from rebnn_mm.estimators import EDE, ClippedSTE, PolynomialSTE
from rebnn_mm.layers import composed
from rebnn_mm.layers.fused import fuses
from rebnn_mm.layers.kept import keep_input, kept_sign, kept_slope

METHODS = ("Sign", "XNOR", "BiReal", "IRNet", "ReAct", "ReCU", "ReBNN")
GEOMETRIES = (
    dict(kernel_size=3, padding=1),
    dict(kernel_size=3, stride=2, padding=2, dilation=2, groups=2),
    dict(kernel_size=(1, 5), padding="same", padding_mode="reflect", bias=False),
    dict(kernel_size=2, padding=(0, 1), groups=4),
)


def conv(method, dtype=torch.float32, **options):
    torch.manual_seed(0)
    layer = MODELS.get(f"{method}Conv2d")(4, 8, **(dict(kernel_size=3) | options)).to(dtype)
    layer.weight.data.mul_(4)  # some weights outside [-1, 1]
    layer.weight.data[0, 0, 0, 0] = 0.0
    return layer, torch.randn(3, 4, 9, 8, dtype=dtype)


def linear(method, dtype=torch.float32, **options):
    torch.manual_seed(0)
    layer = MODELS.get(f"{method}Linear")(40, 8, **options).to(dtype)
    layer.weight.data.mul_(8)
    return layer, torch.randn(3, 5, 40, dtype=dtype)


def run(layer, x, plain):
    """The result, the gradients of input and parameters, and the bytes that were kept besides these."""
    x = x.clone().requires_grad_()
    known = {x.data_ptr(), *(p.data_ptr() for p in layer.parameters())}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in known:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if plain:
            with composed():
                y = layer(x)
        else:
            assert fuses(layer, x)
            y = layer(x)
    seed = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y.detach(), torch.autograd.grad(y, [x, *layer.parameters()], seed), sum(kept.values())


@pytest.mark.parametrize("make", [conv, linear])
def test_what_follows_may_compute_in_place(make):
    layer, x = make("ReBNN")
    expected = layer(x).relu()
    found = nn.Sequential(layer, nn.ReLU(inplace=True))(x)
    found.sum().backward()
    assert torch.equal(found, expected) and layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("method", METHODS)
def test_convolution_in_double_precision(method, geometry):
    layer, x = conv(method, torch.float64, **geometry)
    (y, grads, _), (expected, wanted, _) = run(layer, x, False), run(layer, x, True)
    assert torch.equal(y, expected)
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "options", [dict(), dict(bias=False, input_norm="layer", shortcut=True), dict(input_norm=True)]
)
@pytest.mark.parametrize("method", METHODS)
def test_linear_layer_in_double_precision(method, options):
    layer, x = linear(method, torch.float64, **options)
    (y, grads, _), (expected, wanted, _) = run(layer, x, False), run(layer, x, True)
    assert torch.equal(y, expected)
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_packed_forward_has_the_same_bits(method, last, isa):
    for geometry in GEOMETRIES:
        layer, x = conv(method, **geometry)
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        x[0, 0, 0, :4] = torch.tensor([0.0, -0.0, float("nan"), float("inf")])
        with use_isa(isa):
            assert (native.kernels() is None) == (isa == "torch")
            with torch.no_grad(), composed():
                expected = layer(x)
            assert torch.equal(layer(x), expected)
    layer, x = linear(method)
    with use_isa(isa), composed():
        expected = layer(x)
    with use_isa(isa):
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [conv, linear])
def test_single_precision_and_autocast_are_equal_within_rounding(method, make):
    layer, x = make(method)
    (y, grads, _), (expected, wanted, _) = run(layer, x, False), run(layer, x, True)
    assert torch.equal(y, expected)
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        (y, grads, _), (expected, wanted, _) = run(layer, x, False), run(layer, x, True)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected)
    for grad, other in zip(grads, wanted, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, other, rtol=0.05, atol=0.02 * float(other.abs().max()))


@pytest.mark.parametrize("make", [conv, linear])
@pytest.mark.parametrize("method", ["Sign", "BiReal", "ReAct", "ReBNN", "XNOR"])
def test_nothing_is_kept_but_input_weight_and_scale(method, make):
    layer, x = make(method)
    kept = run(layer, x, False)[2]
    assert kept <= 4 * layer.weight.shape[0] * 2  # a scale that is no parameter, and XNOR's mean of it
    layer.keep = "code"
    assert x.numel() <= run(layer, x, False)[2] <= x.numel() + 4 * layer.weight.shape[0] * 2


def test_a_short_code_has_the_stated_error_and_exact_signs():
    x = torch.cat([torch.linspace(-1.5, 1.5, 3001), torch.tensor([0.0, -0.0, 1e-9, -1e-9, float("nan")])])
    for estimator in (PolynomialSTE(), EDE(3.0), ClippedSTE()):
        slope = estimator.slope()
        kept = keep_input(x, slope)
        assert kept.dtype == torch.uint8
        assert torch.equal(kept_sign(kept, torch.float32) > 0, x >= 0)
        error = (kept_slope(kept, slope, torch.float32) - slope.of(x).float())[:-1].abs().max()
        assert error <= slope.peak / 254 * 1.001
        assert error == 0 or not isinstance(estimator, ClippedSTE)


@pytest.mark.parametrize("make", [conv, linear])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_with_a_short_code(method, make):
    layer, x = make(method, torch.float64)
    _, exact, _ = run(layer, x, False)
    layer.keep = "code"
    _, short, _ = run(layer, x, False)
    peak = layer.estimator.slope().peak
    for grad, other in zip(short[1:], exact[1:], strict=True):
        assert torch.equal(grad, other)
    slope = layer.estimator.slope().of(x).double()
    passes = slope > 0.01
    reaching = (exact[0] / slope)[passes].abs()  # what comes to the sign
    assert ((short[0] - exact[0])[passes].abs() <= reaching * peak / 254 * 1.001).all()


def test_second_derivatives_are_refused_with_the_way_out():
    layer, x = conv("ReBNN")
    x.requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(ValueError, match="no second derivative.*composed"):
        grad.square().sum().backward()
    with composed():
        y = layer(x)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_what_follows_a_layer_gets_the_composed_one():
    layer, x = conv("ReBNN")
    assert fuses(layer, x)
    assert not fuses(layer, x.to("meta")) and not fuses(layer, x[0]) and not fuses(layer, x.double())
    with FlopCounterMode(display=False) as counter:  # it would not see the native kernels
        layer(x)
    assert counter.get_total_flops() > 0
    seen = []
    handle = layer.estimator.register_forward_hook(lambda module, inputs, output: seen.append(output))
    layer(x)
    assert len(seen) == 1
    handle.remove()
    handle = layer.estimator.register_full_backward_pre_hook(lambda module, grad: seen.append(grad))
    layer(x.clone().requires_grad_()).sum().backward()
    assert len(seen) == 2
    handle.remove()
    layer.zero_grad()
    assert fuses(layer, x)

    class Other(type(layer)):
        def _scaled_conv(self, x):
            return super()._scaled_conv(x) + 1

    assert not fuses(Other(4, 8, 3), x)

    class OwnSigns(type(layer)):
        def _signs(self):
            return -super()._signs()

    own = OwnSigns(4, 8, 3)
    own.load_state_dict(layer.state_dict())
    own.bias.data.zero_(), layer.bias.data.zero_()
    assert fuses(own, x) and torch.equal(own(x), -layer(x))
    own(x).sum().backward(), layer(x).sum().backward()
    torch.testing.assert_close(own.weight.grad, -layer.weight.grad)


class Shifted(PolynomialSTE):
    """A sign of its own, and the slope that it inherits."""

    def forward(self, x):
        return super().forward(x - 1)


def shifted():
    return Shifted()


def shifted_by_hand():
    estimator = PolynomialSTE()
    estimator.forward = Shifted().forward
    return estimator


@pytest.mark.parametrize("estimator", [shifted, shifted_by_hand])
def test_an_estimator_with_a_forward_of_its_own_is_called(estimator):
    layer, x = conv("ReBNN")
    expected = layer(x - 1)
    layer.estimator = estimator()
    assert not fuses(layer, x) and torch.equal(layer(x), expected)


def test_only_what_is_wanted_has_a_gradient():
    layer, x = conv("ReBNN")
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.alpha.grad.abs().sum() > 0 and layer.bias.grad is not None
    layer.requires_grad_(False)
    assert not layer(x).requires_grad
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("method", METHODS)
def test_one_vector_through_a_linear_layer(method):
    layer, x = linear(method, torch.float64)
    one, batch = (run(layer, value, False) for value in (x[0, 0], x[0, :1]))
    torch.testing.assert_close(one[0], batch[0][0])
    for found, expected in zip(one[1], batch[1], strict=True):
        torch.testing.assert_close(found, expected.view_as(found))


def test_an_empty_batch_and_checkpointing():
    layer, x = conv("ReBNN", padding=1)
    assert layer(x[:0]).shape == (0, 8, 9, 8)
    net = nn.Sequential(layer, nn.BatchNorm2d(8))
    x.requires_grad_()
    torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False).square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="ReBNNConv2d: estimator='ClippedSTE': a dict is needed with a type"):
        conv("ReBNN", estimator="ClippedSTE")
    with pytest.raises(ValueError, match="ReBNNConv2d: keep='bits' is not one of"):
        conv("ReBNN", keep="bits")
