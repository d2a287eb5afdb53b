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
from rebnn_mm.deploy.layers.pool import max_pool_norm, pixel_mean

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


def torch_mean(x, lanes):
    """torch's sum of contiguous pixels, as SumKernel.cpp adds: see mean.h."""
    n, c, h, w = x.shape
    rows, pixels = x.reshape(n, c, h * w), h * w
    vectors, steps = pixels // lanes, pixels // lanes // 4
    levels = [torch.zeros(n, c, 4, lanes) for _ in range(4)]
    whole = rows[:, :, : steps * 4 * lanes].reshape(n, c, steps, 4, lanes)
    for step in range(1, steps + 1):
        levels[0] = levels[0] + whole[:, :, step - 1]
        if step % 16 == 0:
            for level in range(1, 4):
                levels[level], levels[level - 1] = levels[level] + levels[level - 1], torch.zeros(n, c, 4, lanes)
                if step >> (4 * level) & 15:
                    break
    sums = levels[0] + levels[1] + levels[2] + levels[3]
    for vector in range(steps * 4, vectors):
        sums[:, :, 0] += rows[:, :, vector * lanes : (vector + 1) * lanes]
    lane_sums = sums[:, :, 0] + sums[:, :, 1] + sums[:, :, 2] + sums[:, :, 3]
    total = torch.zeros(n, c)
    for rest in range(vectors * lanes, pixels):
        total = total + rows[:, :, rest]
    for lane in range(lanes):
        total = total + lane_sums[:, :, lane]
    return (total / pixels).view(n, c, 1, 1)


@pytest.mark.parametrize("name", NATIVE)
@given(
    n=st.integers(0, 2),
    c=st.integers(1, 40),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    lanes=st.sampled_from((4, 8, 16)),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_the_mean_is_added_in_torchs_order(name, n, c, size, lanes, seed):
    x = torch.randn(n, c, *size, generator=torch.Generator().manual_seed(seed))
    with library.use_isa(name):
        found = pixel_mean(x.contiguous(memory_format=torch.channels_last), lanes)
    assert torch.equal(found, torch_mean(x, lanes))
    assert torch.allclose(found, x.mean((2, 3), keepdim=True), atol=1e-5)


def test_bad_arguments_of_a_mean():
    functions = library.load().functions
    for isa, *sizes, status in (
        *((b"sse9", 1, 1, 1, 1, 8, 1, 1), (b"generic", -1, 1, -1, 1, 8, 1, 2), (b"generic", 8, 2, 2, 2, 3, 4, 2)),
        *((b"generic", 8, 2, 2, 2, 17, 4, 2), (b"generic", 8, 2, 2, 2, 8, 5, 2), (b"generic", 8, 2, 0, 2, 8, 4, 2)),
        *((b"generic", 1 << 40, 1, 1 << 40, 1, 8, 1, 2), (b"generic", 8, 2, 2, 2, 8, 4, 2)),
    ):
        size, images, pixels, channels, lanes, out = sizes
        assert functions.rebnn_mean_run(isa, None, size, images, pixels, channels, lanes, None, out) == status
    assert functions.rebnn_mean_run(b"generic", None, 0, 0, 5, 7, 8, None, 0) == 0
    with pytest.raises(ValueError, match="the input is"):
        pixel_mean(torch.zeros(1, 2, 3), 8)
