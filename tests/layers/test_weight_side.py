"""The weight's part of the backward: native kernels beside torch's operations, by the formulas in double precision."""

import pytest
import torch

from rebnn_mm.deploy.kernels.library import isas, use_isa
from rebnn_mm.estimators import CLIPPED
from rebnn_mm.functional import sign
from rebnn_mm.layers.weight_side import scaled_signs, weight_gradients

SHAPES = ((5, 3, 3, 3), (70, 2), (3, 130, 1, 1))


def tensors(shape):
    torch.manual_seed(0)
    latent, g = torch.randn(shape) * 1.5, torch.randn(shape)
    latent.view(-1)[:3] = torch.tensor([0.0, -0.0, 1.0])
    scale = torch.randn(shape[0], *[1] * (len(shape) - 1))  # a learned one may fall below 0
    return g, latent, scale


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaled", [True, False])
def test_formulas(shape, scaled, isa):
    g, latent, scale = tensors(shape)
    with use_isa(isa):
        assert torch.equal(scaled_signs(latent, scale), scale * sign(latent))
        assert torch.equal(scaled_signs(latent, None), sign(latent))
        of_latent, of_scale = weight_gradients(g.clone(), latent, scale, CLIPPED, scaled, (True, True))
        alone, nothing = weight_gradients(g.clone(), latent, None, CLIPPED, scaled, (True, True))
        _, only_scale = weight_gradients(g.clone(), latent, scale, CLIPPED, scaled, (False, True))
    inside = (latent.abs() <= 1).double()
    factor = scale.double() if scaled else (scale > 0).double()
    torch.testing.assert_close(of_latent.double(), g.double() * factor * inside, rtol=1e-6, atol=1e-6)
    expected = (g.double() * sign(latent).double()).sum(tuple(range(1, len(shape))), keepdim=True)
    for found in (of_scale, only_scale):
        assert found.shape == scale.shape
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert nothing is None and torch.equal(alone.double(), g.double() * inside)


def test_a_channels_last_weight_takes_torch():
    g, latent, scale = tensors((4, 3, 3, 3))
    last = latent.contiguous(memory_format=torch.channels_last)
    assert torch.equal(scaled_signs(last, scale), scale * sign(latent))
    found, _ = weight_gradients(g.clone(), last, scale, CLIPPED, True, (True, False))
    torch.testing.assert_close(found, g * scale * (latent.abs() <= 1))


@pytest.mark.skipif(isas() == ["torch"], reason="the native kernels are not built")
def test_steps_refuse_what_does_not_fit():
    from rebnn_mm import native

    kernels, x = native.kernels(), torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="out of step 4 has 96 elements, got 48"):
        kernels.unit(native.SIGNS, x, values=x, out=torch.empty(1, 3, 4, 4))
    with pytest.raises(ValueError, match="values of step 4 is dense torch.float32 on the CPU, got torch.float64"):
        kernels.unit(native.SIGNS, x, values=x.double(), out=torch.empty_like(x))
    with pytest.raises(RuntimeError, match="step 4 of a unit"):
        kernels.unit(native.SIGNS, x, values=x)
    with pytest.raises(RuntimeError, match="step 99 of a unit"):
        kernels.unit(99, x, values=x, out=torch.empty_like(x))
