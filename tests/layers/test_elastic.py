"""1-bit layers with BiT's elastic activation: values, gradients, the packed form, and what is refused."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.functional import sign
from rebnn_mm.layers import ReActLinear, ReBNNConv2d, ReBNNLinear, SignLinear

SIGNED, UNSIGNED = dict(type="ElasticSTE"), dict(type="ElasticSTE", unsigned=True)


def straight(value, surrogate):
    return value.detach() + surrogate - surrogate.detach()


def values(activation, x, alpha, beta):
    if activation.unsigned:
        return alpha * straight((x >= beta + alpha / 2).to(x.dtype), ((x - beta) / alpha).clamp(0, 1))
    return alpha * straight(sign(x - beta), (x - beta).clamp(-1, 1))


def set_elastic(layer, alpha=0.8, beta=0.15):
    layer(torch.rand(2, *[layer.weight.shape[1]], dtype=layer.weight.dtype))  # alpha has its own value from here on
    with torch.no_grad():
        layer.estimator.alpha.fill_(alpha)
        layer.estimator.beta.fill_(beta)
    return layer


@pytest.mark.parametrize("estimator", [SIGNED, UNSIGNED])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_multiplies_the_activations_values(estimator, bias):
    torch.manual_seed(0)
    layer = set_elastic(ReBNNLinear(9, 5, bias=bias, estimator=estimator).double())
    x = torch.randn(7, 9, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(7, 5, dtype=torch.float64)
    layer.zero_grad()
    y = layer(x)
    y.backward(seed)
    activation = layer.estimator
    z, w, s, a, b = (
        t.detach().clone().requires_grad_() for t in (x, layer.weight, layer.alpha, activation.alpha, activation.beta)
    )
    w_hat = s.view(-1, 1) * straight(sign(w), w.clamp(-1, 1))
    other = nn.functional.linear(values(activation, z, a, b), w_hat, layer.bias)
    other.backward(seed)
    torch.testing.assert_close(y, other, rtol=1e-12, atol=1e-13)
    pairs = ((x, z), (layer.weight, w), (layer.alpha, s), (activation.alpha, a), (activation.beta, b))
    for mine, theirs in pairs:
        assert theirs.grad.count_nonzero()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", [SIGNED, UNSIGNED])
def test_real_valued_weights_get_the_values(estimator):
    layer = set_elastic(ReBNNLinear(9, 5, estimator=estimator, activation_only=True))
    x = torch.randn(4, 9)
    a, b = layer.estimator.alpha, layer.estimator.beta
    torch.testing.assert_close(
        layer(x), nn.functional.linear(values(layer.estimator, x, a, b), layer.weight, layer.bias)
    )


class Mixed(nn.Module):
    """Behind a norm and behind a ReLU, with every kind of scale, with and without bias."""

    def __init__(self):
        super().__init__()
        self.a = ReBNNLinear(40, 48, estimator=SIGNED, input_norm=True)
        self.b = ReActLinear(48, 24, estimator=UNSIGNED)
        self.c = SignLinear(24, 24, estimator=SIGNED, bias=False, shortcut=True)
        self.d = SignLinear(24, 6, estimator=UNSIGNED, bias=False)

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x).relu())).relu())


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = ReBNNConv2d(8, 16, 3, padding=1, estimator=SIGNED)
        self.b = ReBNNConv2d(16, 8, 3, padding=1, padding_mode="reflect", groups=2, estimator=UNSIGNED)

    def forward(self, x):
        return self.b(self.a(x).relu())


@pytest.mark.parametrize(("kind", "shape"), [(Mixed, (16, 40)), (Convolutions, (2, 8, 12, 12))])
def test_packed_gives_the_same_bits(kind, shape, tmp_path):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(shape)
    model(x)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("beta"):
                parameter.add_(0.05)
    model.eval()
    export_model(model, tmp_path / "m.rebnn", check=Check([x], exact=True))
    packed = load_model(tmp_path / "m.rebnn")
    assert torch.equal(packed(x), model(x)) and model(x).std() > 0


def test_layer_by_layer_is_refused(tmp_path):
    model = nn.Sequential(ReBNNLinear(8, 8, estimator=SIGNED)).eval()
    check = Check([torch.randn(2, 8)], lambda part, x: part(x))
    with pytest.raises(ValueError, match="0 has an ElasticSTE, whose threshold and scale a file holds in a graph only"):
        export_model(model, tmp_path / "m.rebnn", check=check)


def test_zeros_around_an_unsigned_input_are_refused():
    for options in (dict(padding=1), dict(padding="same")):
        with pytest.raises(ValueError, match=r"ElasticSTE\(unsigned=True\) does not go with padding="):
            ReBNNConv2d(4, 4, 3, estimator=UNSIGNED, **options)
    assert ReBNNConv2d(4, 4, 3, estimator=UNSIGNED)(torch.rand(1, 4, 5, 5)).shape == (1, 4, 3, 3)


def test_every_method_takes_it():
    x = torch.randn(6, 8)
    for method in ("Sign", "XNOR", "BiReal", "IRNet", "ReAct", "ReCU", "ReBNN"):
        layer = MODELS.build(dict(type=f"{method}Linear", in_features=8, out_features=4, estimator=UNSIGNED))
        layer(x.abs()).sum().backward()
        assert layer.estimator.alpha.grad.isfinite().all() and layer.weight.grad.isfinite().all(), method
