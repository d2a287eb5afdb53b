"""Maps in the other memory layout: the same values, on every instruction set."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers import transpose
from rebnn_mm.deploy.layers.transpose import to_first, to_last, transposed

NHWC = torch.channels_last
NATIVE = [name for name in library.isas() if name != library.PURE_TORCH]
pytestmark = pytest.mark.usefixtures("threads")


def bits(x):
    return x.view(torch.int32)


@pytest.mark.skipif(not NATIVE, reason="the native library is not built")
@pytest.mark.parametrize("name", NATIVE)
@given(
    n=st.integers(0, 3),
    rows=st.one_of(st.integers(1, 70), st.integers(250, 270)),
    columns=st.one_of(st.integers(1, 70), st.integers(1020, 1050)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_every_bit_is_in_its_new_place(name, n, rows, columns, threads, seed):
    """Any bits: numbers that are none, and denormal ones, too."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-(2**31), 2**31, (n, rows, columns), generator=generator, dtype=torch.int32).view(torch.float32)
    torch.set_num_threads(threads)
    with library.use_isa(name):
        assert torch.equal(bits(transposed(x)), bits(x).transpose(1, 2))


@pytest.mark.parametrize("name", library.isas())
@pytest.mark.parametrize("shape", [(2, 256, 9, 11), (1, 5, 200, 150), (0, 256, 9, 11), (1, 1, 130, 130), (2, 3, 4, 5)])
def test_both_layouts_hold_the_same_values(name, shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    last = x.contiguous(memory_format=NHWC)
    with library.use_isa(name):
        for given_one in (x, last, x.double(), torch.cat([x, x])[: len(x)], torch.cat([x, x], 3)[..., : shape[3]]):
            for function, wanted in ((to_last, NHWC), (to_first, torch.contiguous_format)):
                y = function(given_one)
                assert torch.equal(y, given_one) and y.is_contiguous(memory_format=wanted)
        if x.numel():  # an empty one is in any layout
            assert to_last(x).stride() == last.stride() and to_first(last).stride() == x.stride()


def test_what_is_laid_out_already_is_not_copied():
    x = torch.randn(2, 64, 32, 32)
    last = x.contiguous(memory_format=NHWC)
    assert to_first(x).data_ptr() == x.data_ptr() and to_last(last).data_ptr() == last.data_ptr()


def test_a_call_that_is_recorded_is_torchs_own():
    x = torch.randn(1, 64, 32, 32)

    class Both(torch.nn.Module):
        def forward(self, x):
            return to_first(to_last(x) + 1)

    program = torch.export.export(Both(), (x,), strict=False).module()
    other = torch.randn_like(x)
    assert torch.equal(program(other), other + 1)


@pytest.mark.skipif(not NATIVE, reason="the native library is not built")
def test_bad_arguments(monkeypatch):
    run = library.load().functions.rebnn_transpose_run
    for isa, n, rows, columns, size, threads, status in (
        *((b"sse9", 1, 1, 1, 1, 1, 1), (b"generic", -1, 1, 1, -1, 1, 2), (b"generic", 1, 2, 2, 5, 1, 2)),
        *((b"generic", 1, 0, 2, 0, 1, 2), (b"generic", 1, 2, 0, 0, 1, 2), (b"generic", 1, 2, 2, 4, 0, 2)),
        *((b"generic", 1 << 40, 1 << 40, 1, 1, 1, 2), (b"generic", 1, 2, 2, 4, 1, 2)),  # the last: no memory
    ):
        assert run(isa, None, n, rows, columns, None, size, threads) == status
    assert run(b"generic", None, 0, 5, 7, None, 0, 1) == 0
    for x in (torch.zeros(2, 3), torch.zeros(1, 2, 3).double(), torch.zeros(1, 2, 3).transpose(1, 2)):
        with pytest.raises(ValueError, match="matrices are dense float32"):
            transposed(x)
    monkeypatch.setattr(library, "load", lambda: None)
    with pytest.raises(RuntimeError, match="needs the native library"):
        transposed(torch.zeros(1, 2, 3))


def test_small_maps_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(transpose, "transposed", None)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(to_first(to_last(x)), x)
