import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebnn_mm.bits import count, pack, unpack


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_pack_is_numpys_little_endian_packing(shape, seed):
    bits = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack(bits)
    assert packed.dtype == torch.uint8
    np.testing.assert_array_equal(packed.numpy(), np.packbits(bits.numpy().ravel(), bitorder="little"))
    assert torch.equal(unpack(packed, bits), bits)
    assert count(packed) == bits.sum()


def test_every_byte_is_counted():
    for byte in range(256):
        assert count(torch.tensor([byte, byte], dtype=torch.uint8)) == 2 * byte.bit_count()


def test_a_view_that_is_not_contiguous():
    bits = torch.arange(32).view(4, 8).t() % 3 == 0
    assert torch.equal(unpack(pack(bits), bits), bits)
