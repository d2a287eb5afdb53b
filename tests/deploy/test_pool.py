import pytest
import torch
from graph_toys import names
from hypothesis import given, settings
from hypothesis import strategies as st

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.functions import affine, max_pool_affine
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.pool import max_pool_norm

NATIVE = [name for name in library.isas() if name != library.PURE_TORCH]
pytestmark = [
    pytest.mark.skipif(not NATIVE, reason="the native library is not built"),
    pytest.mark.usefixtures("threads"),
]


def expected(x, scale, offset):
    return affine(torch.nn.functional.max_pool2d(x, 3, stride=2, padding=1), scale, offset)


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
def test_a_graph_gives_the_same_bits_with_and_without_it(name):
    torch.manual_seed(0)
    x, scale, offset = torch.randn(2, 20, 45, 60), torch.randn(20), torch.randn(20)
    with library.use_isa(name):
        assert torch.equal(max_pool_affine(x, scale, offset), expected(x, scale, offset))


@pytest.mark.parametrize("name", library.isas())
def test_a_stem_pools_before_its_norm_without_changing_a_bit(name):
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(3, 20, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(20)
    torch.nn.init.normal_(norm.weight)  # of both signs: a negative scale does not change places with a maximum
    stem = torch.nn.Sequential(conv, norm, torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2, 1)).eval()
    traced = fuse(capture(stem, [torch.randn(2, 3, 64, 64)]))
    assert "rebnn.max_pool_affine" in names(traced)
    x = torch.randn(2, 3, 45, 60)
    with library.use_isa(name), torch.no_grad():
        assert torch.equal(GraphNetwork(encode(traced), traced.tensors)(x), stem(x))


def test_an_instruction_set_that_is_not_there(monkeypatch):
    functions = library.load().functions
    for isa, size, status in ((b"sse9", 1, 1), (b"generic", -1, 2), (b"generic", 1 << 40, 2)):
        assert functions.rebnn_max_pool_run(isa, None, size, size, 1, 1, 1, None, None, None, size, 1) == status
    monkeypatch.setattr(library, "load", lambda: None)
    with pytest.raises(RuntimeError, match="needs the native library"):
        max_pool_norm(torch.zeros(1, 1, 1, 1), torch.zeros(1), torch.zeros(1))
