import pytest
import torch

from rebnn_mm.estimators import EDE, ClippedSTE, PolynomialSTE, clipped_step

X = [-1.5, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0]
SEED = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize(
    ("estimator", "slope"),
    [(ClippedSTE(), [0, 1, 1, 1, 1, 1, 0]), (PolynomialSTE(), [0, 0, 1.5, 2, 1, 0, 0])],
)
def test_value_and_slope(estimator, slope):
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    y = estimator(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1]
    y.backward(torch.tensor(SEED, dtype=torch.float64))
    assert x.grad.tolist() == [a * b for a, b in zip(slope, SEED, strict=True)]


@pytest.mark.parametrize("t", [0.1, 1.0, 4.0])
def test_error_decay_is_the_sign_with_the_slope_of_a_scaled_tanh(t):
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    y = EDE(t)(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1]
    (max(1 / t, 1) * torch.tanh(t * (z := x.detach().clone().requires_grad_()))).backward(torch.tensor(SEED).double())
    y.backward(torch.tensor(SEED, dtype=torch.float64))
    torch.testing.assert_close(x.grad, z.grad, rtol=1e-12, atol=1e-14)


def test_error_decay_refuses_a_sharpness_of_zero():
    with pytest.raises(ValueError, match="t=0 must be a finite number > 0; IR-Net"):
        EDE(0)


def test_step_is_zero_or_one():
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    y = clipped_step(x)
    assert y.tolist() == [0, 0, 0, 1, 1, 1, 1]
    y.backward(torch.tensor(SEED, dtype=torch.float64))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]
