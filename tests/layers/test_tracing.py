"""Gradients are those of eager mode under torch.compile, torch.fx and torch.func, for every estimator and layer."""

from functools import partial

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.fx import symbolic_trace

from rebnn_mm import estimators, layers
from rebnn_mm.functional import reconstruction_grad, sign
from rebnn_mm.layers.learned_scale import LearnedScale

LAYERS = [name for name in layers.__all__ if name in MODELS and name.endswith(("Conv2d", "Linear"))]
ESTIMATORS = {name: MODELS.get(name) for name in estimators.__all__ if name in MODELS}
ESTIMATORS["ElasticSTE"] = partial(estimators.ElasticSTE, unsigned=True)  # whose signs depend on both parameters


def make(name):
    torch.manual_seed(0)
    if name in ESTIMATORS:
        return ESTIMATORS[name](), torch.randn(4, 8) * 1.5
    conv = name.endswith("Conv2d")
    layer = MODELS.get(name)(*((4, 6, 3) if conv else (4, 6)))
    layer.weight.data.mul_(3)  # some weights outside [-1, 1]
    return layer, torch.randn(*((2, 4, 8, 8) if conv else (8, 4)))


def gradients(forward, module, x):
    """The output, and the gradients of the input and of each parameter."""
    x = x.clone().requires_grad_()
    y = forward(x)
    seed = torch.linspace(-1, 2, y.numel()).view_as(y)
    inputs = [x, *module.parameters()]
    return y.detach(), *torch.autograd.grad(y, inputs, seed)


def assert_as_eager(name, forward, module, x):
    for expected, found in zip(gradients(module, module, x), gradients(forward, module, x), strict=True):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # sums in another order


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LAYERS, *ESTIMATORS])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("first", ["compiled", "eager"])
def test_compiled(name, backend, first):
    module, x = make(name)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    if first == "compiled":
        compiled(x)  # the forward that gives alpha its start
        if isinstance(module, LearnedScale):
            torch.testing.assert_close(module.alpha.flatten(), module.weight.abs().flatten(1).mean(1))
    assert_as_eager(name, compiled, module, x)


@pytest.mark.parametrize("name", [*LAYERS, *ESTIMATORS])
@pytest.mark.parametrize("mode", [True, False])
def test_traced_by_fx(name, mode):
    module, x = make(name)
    assert_as_eager(name, symbolic_trace(module.train(mode)), module, x)


@pytest.mark.parametrize("name", LAYERS)
def test_functional_transforms(name):
    module, x = make(name)
    expected = gradients(module, module, x)[2:]
    parameters = {key: value.detach() for key, value in module.named_parameters()}
    seed = torch.linspace(-1, 2, module(x).numel())

    def loss(values):
        return (torch.func.functional_call(module, values, x).flatten() * seed).sum()

    found = torch.func.grad(loss)(parameters)
    for value, name_ in zip(expected, parameters, strict=True):
        torch.testing.assert_close(found[name_], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_an_ensemble_by_vmap(name):
    members = [make(name)[0] for _ in range(3)]
    for member in members:
        nn.init.normal_(member.weight)
    x = make(name)[1]
    members = [member.eval() for member in members if member(x) is not None]
    parameters, buffers = torch.func.stack_module_state(members)
    base = make(name)[0].eval().to("meta")
    outputs = torch.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (x,)))(parameters, buffers)
    for member, output in zip(members, outputs, strict=True):
        torch.testing.assert_close(output, member(x), rtol=1e-5, atol=1e-5)


def test_pure_functions_are_the_same_under_compile():
    w, alpha, gamma = torch.randn(4, 3, 2, 2), torch.rand(4, 1, 1, 1), torch.rand(4, 1, 1, 1)
    awkward = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45])
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        compiled = torch.compile(lambda *a: (sign(awkward), *reconstruction_grad(*a)), backend=backend, fullgraph=True)
        for found, expected in zip(
            compiled(w, alpha, gamma), (sign(awkward), *reconstruction_grad(w, alpha, gamma)), strict=True
        ):
            torch.testing.assert_close(found, expected)
