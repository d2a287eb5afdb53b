"""BiT's elastic activation against autograd of the clip it stands for, in double precision; where alpha starts."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from rebnn_mm.estimators import ElasticSTE, elastic_sign
from rebnn_mm.functional import sign


def elastic(unsigned, alpha, beta):
    activation = ElasticSTE(unsigned).double().eval()
    with torch.no_grad():
        activation.alpha.fill_(alpha)
        activation.beta.fill_(beta)
    return activation


def expected(unsigned, x, alpha, beta):
    """``alpha * q`` or ``alpha * sign``; the rounding and the sign are passed by in the backward."""
    if unsigned:
        clipped = ((x - beta) / alpha).clamp(0, 1)
        values = (x >= beta + alpha / 2).to(x.dtype)
    else:
        clipped = (x - beta).clamp(-1, 1)
        values = sign(x - beta)
    return alpha * (values.detach() + clipped - clipped.detach())


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.7, 0.2), (2.5, -0.3)])
def test_values_and_gradients_are_those_of_the_clip(unsigned, alpha, beta):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 50, generator=generator, dtype=torch.float64).requires_grad_()
    seed = torch.randn(4, 50, generator=generator, dtype=torch.float64)
    activation = elastic(unsigned, alpha, beta)
    y = activation.values(activation(x))
    y.backward(seed)
    z, a, b = (t.detach().clone().requires_grad_() for t in (x, activation.alpha, activation.beta))
    other = expected(unsigned, z, a, b)
    other.backward(seed)
    torch.testing.assert_close(y, other, rtol=1e-12, atol=1e-14)
    for mine, theirs in ((x, z), (activation.alpha, a), (activation.beta, b)):
        assert 0 < theirs.grad.count_nonzero()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_table_of_the_unsigned_step():
    x = torch.tensor([-0.5, 0.0, 0.99, 1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    alpha, beta = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (2.0, 0.0))
    s = elastic_sign(x, alpha, beta)
    assert s.tolist() == [-1, -1, -1, 1, 1, 1]
    s.backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64))
    assert x.grad.tolist() == [0, 2, 3, 4, 0, 0]  # 2 / alpha within [beta, beta + alpha)
    assert beta.grad.item() == -9
    assert alpha.grad.item() == -(3 * 0.99 / 2 + 4 * 0.5)


def test_a_scale_that_is_not_positive_gives_no_nan():
    x = torch.linspace(-1, 1, 9, requires_grad=True)
    for alpha in (0.0, -0.5):
        activation = elastic(True, alpha, 0.0).float()
        activation.values(activation(x)).sum().backward()
        assert x.grad.isfinite().all() and activation.alpha.grad.isfinite().all()


@pytest.mark.parametrize(("unsigned", "times"), [(False, 1), (True, 2)])
def test_alpha_starts_at_the_first_batch_of_a_training_alone(unsigned, times):
    activation, x = ElasticSTE(unsigned), torch.rand(3, 7) + 0.1
    activation.eval()(x)
    assert activation.alpha.item() == 1
    activation.train().requires_grad_(False)(x)
    assert activation.alpha.item() == 1
    activation.requires_grad_()
    copied = copy.deepcopy(activation)
    for each in (activation, copied):
        each(x)
        each(100 * x)
        torch.testing.assert_close(each.alpha.data, times * x.mean().view(1))


def test_an_averaged_alpha_is_left_alone():
    trained = ElasticSTE()
    average = AveragedModel(trained)
    trained(torch.full((5,), 3.0))
    average.update_parameters(trained)
    average(torch.full((5,), 9.0))  # as update_bn does, in training
    assert average.module.alpha.item() == 3


def test_a_first_batch_of_zeros_leaves_alpha_a_number():
    activation = ElasticSTE()
    activation(torch.zeros(5))
    assert activation.alpha.item() == 1


def test_a_loaded_alpha_is_left_alone():
    trained = ElasticSTE()
    trained(torch.full((5,), 3.0))
    other = ElasticSTE()
    other.load_state_dict(trained.state_dict())
    other(torch.full((5,), 9.0))
    assert other.alpha.item() == 3
