import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.pool import max_pool_norm
from rebnn_mm.deploy.real import FoldedNorm, PooledStem

NATIVE = [name for name in library.isas() if name != library.PURE_TORCH]
pytestmark = [
    pytest.mark.skipif(not NATIVE, reason="the native library is not built"),
    pytest.mark.usefixtures("threads"),
]


def expected(x, scale, offset):
    return FoldedNorm(scale, offset)(torch.nn.functional.max_pool2d(x, 3, stride=2, padding=1))


@pytest.mark.parametrize("name", NATIVE)
@given(
    n=st.integers(0, 3),
    c=st.integers(1, 70),
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    threads=st.integers(1, 3),
    channels_last=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_it_is_the_pool_and_the_norm(name, n, c, h, w, threads, channels_last, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, h, w, generator=generator)
    for step, value in ((5, 0.0), (7, -0.0), (101, float("nan")), (103, float("-inf"))):
        x.view(-1)[step // 2 :: step] = value
    scale, offset = torch.randn(c, generator=generator), torch.randn(c, generator=generator)
    torch.set_num_threads(threads)
    wanted = expected(x, scale, offset) if n else x.new_empty(0, c, (h + 1) // 2, (w + 1) // 2)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with library.use_isa(name):
        actual = max_pool_norm(x, scale, offset)
    assert actual.shape == wanted.shape
    assert torch.equal(actual.nan_to_num(1e30, -2e30, -3e30), wanted.nan_to_num(1e30, -2e30, -3e30))


@pytest.mark.parametrize("name", library.isas())
def test_a_stem_gives_the_same_bits_with_and_without_it(name):
    torch.manual_seed(0)
    weight, scale, offset, x = torch.randn(20, 3, 7, 7), torch.randn(20), torch.randn(20), torch.randn(2, 3, 45, 60)
    wanted = expected(torch.nn.functional.conv2d(x, weight, None, 2, 3), scale, offset)
    normed_first = torch.nn.functional.max_pool2d(
        FoldedNorm(scale, offset)(torch.nn.functional.conv2d(x, weight, None, 2, 3)), 3, 2, 1
    )
    with library.use_isa(name):
        assert torch.equal(PooledStem(weight, scale, offset)(x), normed_first)
    assert not torch.equal(wanted, normed_first)  # a negative scale does not change places with a maximum


def test_an_instruction_set_that_is_not_there(monkeypatch):
    functions = library.load().functions
    for isa, size, status in ((b"sse9", 1, 1), (b"generic", -1, 2), (b"generic", 1 << 40, 2)):
        assert functions.rebnn_max_pool_run(isa, None, size, size, 1, 1, 1, None, None, None, size, 1) == status
    monkeypatch.setattr(library, "load", lambda: None)
    with pytest.raises(RuntimeError, match="needs the native library"):
        max_pool_norm(torch.zeros(1, 1, 1, 1), torch.zeros(1), torch.zeros(1))
