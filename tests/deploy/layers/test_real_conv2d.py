import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from real_steps import with_steps

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.real_conv2d import RealConv2dPlan
from rebnn_mm.deploy.operation.reference import fma
from rebnn_mm.deploy.operation.spec import ConvSpec

NATIVE = [name for name in library.isas() if name != library.PURE_TORCH]
pytestmark = [
    pytest.mark.skipif(not NATIVE, reason="the native library is not built"),
    pytest.mark.usefixtures("threads"),
]


def expected(x, weight, spec, norm, clamp, max_pool, chunk):
    """Tap by tap, rows first, channels innermost; a tap in the padding adds 0, which changes nothing."""
    (pad, _), (stride, _) = spec.padding, spec.stride
    out_h, out_w = spec.output_size(*x.shape[2:])
    x = torch.nn.functional.pad(x, (pad,) * 4)
    total = None
    _, c_in, kernel_h, kernel_w = weight.shape
    for first in range(0, c_in, chunk):
        y = torch.zeros(x.shape[0], spec.c_out, out_h, out_w)
        for ky in range(kernel_h):
            for kx in range(kernel_w):
                for c in range(first, min(c_in, first + chunk)):
                    values = x[:, c : c + 1, ky::stride, kx::stride][:, :, :out_h, :out_w]
                    y = fma(values, weight[:, c, ky, kx].view(-1, 1, 1), y)
        total = y if total is None else total + y
    if max_pool:
        total = torch.nn.functional.max_pool2d(total, 3, 2, 1)
    return with_steps(total, norm, clamp)


@pytest.mark.parametrize("name", NATIVE)
@given(
    n=st.integers(0, 2),
    c_in=st.integers(1, 9),
    c_out=st.sampled_from((1, 5, 16, 23, 40, 64, 70, 140)),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    kernel=st.sampled_from(((1, 1), (1, 1), (3, 3), (7, 7), (2, 5))),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    normed=st.booleans(),
    clamp=st.sampled_from((None, (0.0, float("inf")), (0.0, 6.0))),
    max_pool=st.booleans(),
    chunk=st.integers(1, 9),
    last=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_it_is_the_sum_in_its_order(
    name, n, c_in, c_out, size, kernel, stride, padding, normed, clamp, max_pool, chunk, last, threads, seed
):
    generator = torch.Generator().manual_seed(seed)
    spec = ConvSpec.of((c_out, c_in, *kernel), stride, padding)
    weight, x = torch.randn(spec.weight_shape, generator=generator), torch.randn(n, c_in, *size, generator=generator)
    norm = (torch.randn(c_out, generator=generator), torch.randn(c_out, generator=generator)) if normed else None
    torch.set_num_threads(threads)
    with library.use_isa(name):
        plan = RealConv2dPlan(weight, spec, norm, clamp, max_pool)
    given = x.contiguous(memory_format=torch.channels_last) if last else x
    if min(spec.output_size(*size)) < 1:
        with pytest.raises(ValueError, match="no output pixel"):
            plan(given)
        return
    y = plan(given)
    assert y.is_contiguous(memory_format=torch.channels_last)
    if n == 0:
        assert y.shape[:2] == (0, c_out)
        return
    assert torch.equal(y, expected(x, weight, spec, norm, clamp, max_pool, c_in))
    if kernel == (1, 1):
        parts = plan.in_chunks(chunk)(given)
        assert torch.equal(parts, expected(x, weight, spec, norm, clamp, max_pool, chunk))
        assert torch.equal(plan(given), y)  # it has not changed


@pytest.mark.parametrize(
    ("shape", "arguments", "match"),
    [
        ((6, 2, 3, 3), (1, 1, 1, 2), "one group"),
        ((6, 2, 3, 3), (1, 1, 2), "one group"),
        ((6, 2, 3, 3), ((1, 2),), "same in both directions"),
    ],
)
def test_what_has_no_kernel_is_refused(shape, arguments, match):
    with pytest.raises(ValueError, match=match):
        RealConv2dPlan(torch.randn(shape), ConvSpec.of(shape, *arguments))


def test_bad_inputs_are_refused():
    plan = RealConv2dPlan(torch.randn(6, 3, 3, 3), ConvSpec.of((6, 3, 3, 3)))
    with pytest.raises(TypeError, match="float64"):
        plan(torch.randn(1, 3, 4, 4).double())
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        plan(torch.randn(1, 5, 4, 4))
    with pytest.raises(TypeError, match="int32"):
        plan(torch.zeros(1, 4, 4, 1, dtype=torch.int32))
    for chunk in (0, 1):
        with pytest.raises(ValueError, match="for 1x1 kernels only"):
            plan.in_chunks(chunk)
    with pytest.raises(TypeError, match="float16"):
        RealConv2dPlan(torch.randn(6, 3, 3, 3).half(), ConvSpec.of((6, 3, 3, 3)))


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(library, "load", lambda: None)
    with pytest.raises(RuntimeError, match="needs the native library"):
        RealConv2dPlan(torch.randn(6, 3, 3, 3), ConvSpec.of((6, 3, 3, 3)))
