"""The steps in front of a sign as one comparison."""

import pytest
import torch

from rebnn_mm.deploy.operation.reference import input_side
from rebnn_mm.deploy.operation.steps import InputSide
from rebnn_mm.deploy.targets.openvino.thresholds import sign_thresholds

TINY = torch.finfo(torch.float32).tiny


def around(threshold):
    """Numbers at and beside each threshold, and everywhere: (M, C)."""
    up, down = (torch.nextafter(threshold, torch.full_like(threshold, end)) for end in (torch.inf, -torch.inf))
    common = torch.tensor([0.0, -0.0, TINY, -2 * TINY, 1e-3, -1e-3, 1.0, -1.0, 3e38, -3e38])
    return torch.cat([torch.stack([threshold, up, down]), common[:, None].expand(-1, len(threshold))])


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_no_sign_differs(shift, norm):
    torch.manual_seed(0)
    channels = 400
    side = InputSide(
        torch.randn(channels) if shift else None, (torch.randn(channels), torch.randn(channels)) if norm else None
    )
    threshold, falling = sign_thresholds(side, channels)
    x = around(threshold)
    expected = input_side(x[:, :, None, None], side)[:, :, 0, 0] >= 0
    found = (x > threshold) != falling
    subnormal = (x != 0) & (x.abs() < TINY)  # taken for 0
    assert torch.equal(found | subnormal, expected | subnormal)
    assert bool(falling.any()) == norm


def test_zero_is_plus_one_and_constants_stay():
    threshold, falling = sign_thresholds(InputSide(), 3)
    assert (torch.zeros(3) > threshold).all() and (-torch.zeros(3) > threshold).all() and not falling.any()
    assert threshold.tolist() == [-TINY] * 3
    always = InputSide(None, (torch.zeros(2), torch.tensor([1.0, -1.0])))
    threshold, falling = sign_thresholds(always, 2)
    for x in (-1e30, 0.0, 1e30):
        assert ((torch.full((2,), x) > threshold) != falling).tolist() == [True, False]
