import pytest
import torch

from rebnn_mm import functional as F


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_sign_has_two_values(dtype):
    x = torch.tensor([-2.0, -0.0, 0.0, 3.0, float("nan")], dtype=dtype)
    assert F.sign(x).tolist() == [-1, 1, 1, 1, -1]
    assert F.sign(x).dtype == dtype


def test_flip_share_by_hand():
    before = torch.tensor([[1.0, 1, -1, -1], [1, 1, 1, 1]])
    after = torch.tensor([[1.0, -1, -1, -1], [-1, -1, -1, -1]])
    assert F.flip_share(before, after).tolist() == [0.25, 1.0]
    assert F.flip_share(before >= 0, after >= 0).tolist() == [0.25, 1.0]


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (5, 7), (3, 1, 1, 1)])
def test_reconstruction_grad_equals_autograd(shape):
    torch.manual_seed(0)
    w = torch.randn(shape, dtype=torch.float64)
    w.view(-1)[0] = 0
    column = (shape[0],) + (1,) * (len(shape) - 1)
    w.requires_grad_()
    alpha = torch.rand(column, dtype=torch.float64).requires_grad_()
    gamma = torch.rand(column, dtype=torch.float64)
    expected = torch.autograd.grad(F.reconstruction_loss(w, alpha, gamma), (w, alpha))
    got = F.reconstruction_grad(w.detach(), alpha.detach(), gamma)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_gradient_magnitude_recovers_the_gradient_of_w_hat_inside_the_clip():
    w = torch.tensor([[0.5, -0.5, 2.0], [0.1, 0.1, 0.1]])
    alpha = torch.tensor([[0.5], [0.0]])
    grad_w_hat = torch.tensor([[1.0, -3.0, 100.0], [1.0, 1.0, 1.0]])
    grad_w = alpha * grad_w_hat * (w.abs() <= 1)
    assert F.gradient_magnitude(w, grad_w, alpha).tolist() == [3.0, 0.0]


def test_balance_parameter_product_ablation_and_bounds():
    flips, magnitude = torch.tensor([0.0, 0.5]), torch.tensor([2.0, 4.0])
    assert F.balance_parameter(flips, magnitude).tolist() == [0.0, 2.0]
    assert F.balance_parameter(None, magnitude).tolist() == [2.0, 4.0]
    assert F.balance_parameter(flips, magnitude, 0.5, 1.0).tolist() == [0.5, 1.0]
