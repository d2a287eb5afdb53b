"""The input's part of the backward: native kernels beside torch's operations."""

import pytest
import torch

from rebnn_mm.deploy.kernels.library import isas, use_isa
from rebnn_mm.estimators import EDE, ClippedSTE, PolynomialSTE
from rebnn_mm.layers.input_side import keep, signs_of, through_sign


@pytest.mark.parametrize("estimator", [PolynomialSTE(), ClippedSTE(), EDE(3.0)])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 7, 9), (4, 130), (6,)])
@pytest.mark.parametrize("isa", isas())
def test_as_torch_has_it(shape, short, estimator, isa):
    torch.manual_seed(0)
    x, grad, slope = torch.randn(shape), torch.randn(shape), estimator.slope()
    x.view(-1)[:5] = torch.tensor([0.0, -0.0, 1.0, -1.0, 7.0])
    results = {}
    for name in (isa, "torch"):
        with use_isa(name):
            kept = keep(x, slope, short)
            assert kept.dtype == (torch.uint8 if short else torch.float32)
            results[name] = signs_of(kept, torch.float32), through_sign(grad.clone(), kept, slope, torch.float32)
    signs, through = results[isa]
    assert torch.equal(signs, results["torch"][0]) and torch.equal(signs > 0, x >= 0)
    step = slope.peak / 127 if short else 0.0  # a slope between two steps may be rounded to either
    assert ((through - results["torch"][1]).abs() <= grad.abs() * step * 1.01 + 1e-6).all()
    bound = slope.peak / 254 * 1.01 if short else 0.0
    assert ((through - grad * slope.of(x)).abs() <= grad.abs() * bound + 1e-6).all()
