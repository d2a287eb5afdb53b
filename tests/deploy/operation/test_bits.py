import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebnn_mm.deploy.operation.bits import bytes_of_bits, from_bits, to_bits
from rebnn_mm.functional import sign

shapes = st.lists(st.integers(1, 7), min_size=2, max_size=5)


@given(shape=shapes, seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=60)
def test_signs_survive_packing(shape, seed):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    bits = to_bits(weight)
    assert bits.shape == (bytes_of_bits(shape),)
    assert torch.equal(from_bits(bits, shape), sign(weight))
    assert torch.equal(to_bits(from_bits(bits, shape)), bits)


def test_bytes_are_the_documented_ones():
    weight = -torch.ones(2, 3, 1, 2)
    # element (o, ky, kx, c) of the channels-last weight is bit ((o * 1 + ky) * 2 + kx) * 3 + c
    weight[0, 1, 0, 0] = 1  # bit 1
    weight[0, 2, 0, 1] = 1  # bit 5
    weight[1, 2, 0, 0] = 1  # bit 8
    weight[1, 2, 0, 1] = 1  # bit 11
    assert to_bits(weight).tolist() == [0b00100010, 0b00001001]


def test_zeros_are_positive_and_nan_is_negative():
    assert to_bits(torch.tensor([[0.0, -0.0, float("nan"), -1.0, 1.0]])).tolist() == [0b10011]


def test_takes_transposed_and_half_weights():
    weight = torch.randn(4, 6, 3, 3).half()
    assert torch.equal(from_bits(to_bits(weight.transpose(0, 1)), (6, 4, 3, 3)), sign(weight.float()).transpose(0, 1))


@pytest.mark.parametrize(
    ("bits", "shape", "match"),
    [
        (torch.zeros(2, dtype=torch.uint8), (2, 3), r"uint8 tensor of shape \(1,\)"),
        (torch.zeros(1), (2, 3), "got torch.float32"),
        (torch.zeros(0, dtype=torch.uint8), (0, 3), "all at least 1"),
        (torch.zeros(1, dtype=torch.uint8), (3,), "weight_shape is"),
    ],
)
def test_refuses_what_does_not_fit(bits, shape, match):
    with pytest.raises(ValueError, match=match):
        from_bits(bits, shape)


def test_refuses_a_vector():
    with pytest.raises(ValueError, match="C_out, C_in/groups"):
        to_bits(torch.ones(3))
