"""Bits beside numpy's, for every way a tensor can lie in memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebnn_mm.files.bits import count, from_bits, to_bits


@st.composite
def tensors(draw):
    """A bool tensor of up to four dimensions, zero size included, as a view: cut, strided, turned or expanded."""
    shape = draw(st.lists(st.integers(0, 9), max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    base = torch.rand([size + 4 for size in shape], generator=generator) < 0.5
    for dim, size in enumerate(shape):
        step = draw(st.sampled_from([1, 2])) if size <= 4 else 1
        start = draw(st.integers(0, 4))
        base = base.narrow(dim, start, size) if step == 1 else base[(slice(None),) * dim + (slice(0, 2 * size, 2),)]
    base = base.permute(draw(st.permutations(range(base.dim()))))
    if draw(st.booleans()):
        base = base.expand(draw(st.integers(0, 9)), *base.shape)
    return base


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(tensors())
def test_the_order_is_numpys_little_endian_one(booleans):
    before = booleans.clone()
    bits = to_bits(booleans)
    assert bits.dtype == torch.uint8 and bits.shape == (-(-booleans.numel() // 8),)
    np.testing.assert_array_equal(bits.numpy(), np.packbits(booleans.numpy().ravel(), bitorder="little"))
    assert torch.equal(from_bits(bits, booleans), booleans) and torch.equal(booleans, before)
    assert count(bits) == booleans.sum()


@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize("size", [8, 16, 15])
def test_a_view_into_a_storage(offset, size):
    booleans = (torch.arange(40) % 3 == 0)[offset : offset + size]
    assert torch.equal(from_bits(to_bits(booleans), booleans), booleans)


def test_under_other_defaults():
    booleans = torch.arange(16) % 3 == 0
    expected = to_bits(booleans)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), torch.inference_mode():
            assert torch.equal(to_bits(booleans), expected) and torch.equal(from_bits(expected, booleans), booleans)
            assert count(expected) == booleans.sum()
    finally:
        torch.set_default_dtype(before)
    assert to_bits(booleans.to("meta")).shape == (2,)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="to_bits takes bool, not torch.float32"):
        to_bits(torch.ones(8))


def test_every_byte_is_counted():
    for byte in range(256):
        assert count(torch.tensor([byte, byte], dtype=torch.uint8)) == 2 * byte.bit_count()
