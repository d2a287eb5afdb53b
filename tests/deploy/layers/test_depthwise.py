import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from real_steps import with_steps

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.depthwise import DepthwisePlan
from rebnn_mm.deploy.operation.reference import fma
from rebnn_mm.deploy.operation.spec import ConvSpec

NATIVE = [name for name in library.isas() if name != library.PURE_TORCH]
pytestmark = [
    pytest.mark.skipif(not NATIVE, reason="the native library is not built"),
    pytest.mark.usefixtures("threads"),
]


def expected(x, weight, spec, norm, clamp, start):
    """Tap by tap, rows first; a tap in the padding adds 0, which changes nothing."""
    (top, left), (stride, _), (dilation, _) = spec.padding, spec.stride, spec.dilation
    x = torch.nn.functional.pad(x, (left, left, top, top))
    out_h, out_w = (size for size in spec.output_size(x.shape[2] - 2 * top, x.shape[3] - 2 * left))
    y = torch.zeros(x.shape[0], spec.c_out, out_h, out_w)
    y = y if start is None else y + start.view(-1, 1, 1)
    for ky in range(weight.shape[2]):
        for kx in range(weight.shape[3]):
            rows = x[:, :, ky * dilation :: stride, kx * dilation :: stride][:, :, :out_h, :out_w]
            y = fma(rows, weight[:, :, ky, kx].view(-1, 1, 1), y)
    return with_steps(y, norm, clamp)


@pytest.mark.parametrize("name", NATIVE)
@given(
    n=st.integers(0, 2),
    c=st.integers(1, 70),
    h=st.integers(1, 14),
    w=st.integers(1, 14),
    kernel=st.tuples(st.sampled_from((1, 3, 5, 7)), st.sampled_from((1, 2, 3, 5, 7))),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 2),
    normed=st.booleans(),
    started=st.booleans(),
    clamp=st.sampled_from((None, (0.0, float("inf")), (0.0, 6.0))),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_it_is_the_sum_in_the_order_of_its_taps(
    name, n, c, h, w, kernel, stride, padding, dilation, normed, started, clamp, threads, seed
):
    generator = torch.Generator().manual_seed(seed)
    spec = ConvSpec.of((c, 1, *kernel), stride, padding, dilation, c)
    weight, x = torch.randn(spec.weight_shape, generator=generator), torch.randn(n, c, h, w, generator=generator)
    norm = (torch.randn(c, generator=generator), torch.randn(c, generator=generator)) if normed else None
    start = torch.randn(c, generator=generator) if started else None
    torch.set_num_threads(threads)
    with library.use_isa(name):
        plan = DepthwisePlan(weight, spec, norm, clamp, start)
    if min(spec.output_size(h, w)) < 1:
        with pytest.raises(ValueError, match="no output pixel"):
            plan(x)
        return
    y = plan(x)
    assert torch.equal(y, expected(x, weight, spec, norm, clamp, start))
    assert torch.allclose(y, expected_by_torch(x, weight, spec, norm, clamp, start), rtol=1e-4, atol=1e-4)
    assert y.is_contiguous(memory_format=torch.channels_last)


def expected_by_torch(x, weight, spec, norm, clamp, start):
    y = torch.nn.functional.conv2d(x, weight, start, spec.stride, spec.padding, spec.dilation, spec.groups)
    return with_steps(y, norm, clamp)


@pytest.mark.parametrize(
    ("shape", "stride", "groups", "match"),
    [
        ((6, 2, 3, 3), 1, 3, "a depthwise weight is"),
        ((6, 1, 3, 3), 1, 3, "a depthwise weight is"),
        ((6, 1, 3, 3), (1, 2), 6, "same in both directions"),
    ],
)
def test_what_is_not_depthwise_is_refused(shape, stride, groups, match):
    with pytest.raises(ValueError, match=match):
        DepthwisePlan(torch.randn(shape), ConvSpec.of(shape, stride, 1, 1, groups))


def test_bad_inputs_and_sizes_are_refused():
    plan = DepthwisePlan(torch.randn(6, 1, 3, 3), ConvSpec.of((6, 1, 3, 3), 1, 1, 1, 6))
    with pytest.raises(TypeError, match="float64"):
        plan(torch.randn(1, 6, 4, 4).double())
    with pytest.raises(ValueError, match=r"\(N, 6, H, W\)"):
        plan(torch.randn(1, 5, 4, 4))
    with pytest.raises(TypeError, match="int32"):
        plan(torch.zeros(1, 4, 4, 1, dtype=torch.int32))
    with pytest.raises(ValueError, match="the bias has one element for each of 6 channels"):
        DepthwisePlan(torch.randn(6, 1, 3, 3), plan.spec, start=torch.zeros(5))
    run = library.load().functions.rebnn_depthwise_run
    good = (b"generic", None, 0, 0, 4, 4, 6, None, 3, 3, 1, 1, 1, None, None, None, 0.0, 1.0, None, 0, 1)
    assert run(*good) == 0  # no image
    assert run(b"sse9", *good[1:]) == 1
    for place in (2, 3, 19):  # sizes that do not fit each other
        assert run(*good[:place], 1, *good[place + 1 :]) == 2
    for place, value in ((4, 0), (6, -1), (8, 0), (10, 0), (11, -1), (12, 1 << 40), (20, 0)):
        assert run(*good[:place], value, *good[place + 1 :]) == 2
    assert run(*good[:2], 96, 1, *good[4:19], 96, 1) == 2  # no memory
