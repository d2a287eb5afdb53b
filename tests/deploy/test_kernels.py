"""Every instruction set that runs here against the training layers, bit for bit."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rebnn_mm.backbones.blocks import BinaryUnit
from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.ops import Conv2dPlan, LinearPlan, fold_batch_norm
from rebnn_mm.deploy.packing import pack_signs
from rebnn_mm.deploy.reference import fma
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear

FORMATS = (torch.contiguous_format, torch.channels_last)

# c_in, c_out, kernel, stride, padding, dilation, groups, n, h, w
GRID = [
    (64, 64, 3, 1, 1, 1, 1, 1, 14, 14),
    (64, 128, 3, 2, 1, 1, 1, 2, 15, 13),
    (128, 64, 1, 1, 0, 1, 1, 1, 9, 11),
    (512, 64, 3, 1, 1, 1, 1, 1, 7, 7),
    (3, 10, 3, 1, 1, 1, 1, 2, 17, 19),
    (70, 33, 3, 2, 1, 1, 1, 2, 9, 11),
    (96, 50, 5, 1, 2, 1, 1, 1, 13, 13),
    (64, 72, 3, 1, 2, 2, 1, 1, 10, 10),
    (64, 64, 3, 1, 1, 1, 4, 1, 12, 12),
    (12, 36, 3, 1, 1, 1, 3, 2, 8, 8),
    (33, 33, 3, 1, 1, 1, 33, 1, 9, 9),  # depthwise
    (20, 40, 3, 2, 1, 1, 20, 2, 9, 9),  # depthwise, two outputs each
    (160, 48, 3, 1, 1, 1, 2, 1, 8, 8),
    (1, 1, 3, 1, 1, 1, 1, 1, 5, 5),
    (64, 16, 7, 2, 3, 1, 1, 1, 6, 6),
    (32, 17, 3, 1, 4, 1, 1, 1, 3, 2),  # most of the kernel lies in the padding
    (40, 48, (1, 3), (2, 1), (0, 2), (1, 2), 1, 3, 7, 9),
    (40, 48, (5, 2), (1, 3), (3, 0), (2, 1), 1, 1, 9, 8),
    (64, 64, 3, 1, 1, 1, 1, 0, 4, 4),  # empty batch
    (7400, 16, 3, 1, 1, 1, 1, 1, 2, 2),  # more than 65535 products in a sum
]


@pytest.fixture(params=library.isas())
def isa(request):
    with library.use_isa(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def awkward(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Normal numbers among which zeros of both signs and NaN are."""
    x = torch.randn(shape, generator=generator)
    for step, value in ((7, 0.0), (11, -0.0), (101, float("nan"))):
        x.view(-1)[step // 2 :: step] = value
    return x


def scramble(module: nn.Module, generator: torch.Generator) -> None:
    """Parameters and running statistics as after training: nothing stays at 0 or 1."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            positive = name.endswith(("alpha", "running_var"))
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1 if positive else
                         awkward(*tensor.shape, generator=generator).nan_to_num(0.3))  # fmt: skip


def make_conv(case, seed, **kwargs):
    c_in, c_out, kernel, stride, padding, dilation, groups, n, h, w = case
    generator = torch.Generator().manual_seed(seed)
    layer = ReBNNConv2d(c_in, c_out, kernel, stride, padding, dilation, groups, **kwargs).eval()
    scramble(layer, generator)
    return layer, awkward(n, c_in, h, w, generator=generator)


def plan_of(layer, **kwargs):
    if isinstance(layer, ReBNNConv2d):
        kwargs |= dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups)
    kind = Conv2dPlan if isinstance(layer, ReBNNConv2d) else LinearPlan
    norm = None if layer.input_norm is None else fold_batch_norm(layer.input_norm)
    return kind(
        pack_signs(layer.weight),
        layer.alpha,
        weight_shape=layer.weight.shape,
        bias=layer.bias,
        input_norm=norm,
        **kwargs,
    )


def plan_of_unit(unit):
    scale, offset = fold_batch_norm(unit.norm)
    act = unit.act
    rprelu = (act.before.shift, act.prelu.weight, act.after.shift)
    return plan_of(unit.conv, shift=unit.shift.shift, scale=scale, offset=offset, rprelu=rprelu)


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    # NaN in the shortcut stays NaN
    assert torch.equal(actual.nan_to_num(1e30), expected.nan_to_num(1e30))


@pytest.mark.parametrize("case", GRID, ids=str)
@torch.no_grad()
def test_convolution_is_the_layer(isa, case):
    layer, x = make_conv(case, seed=1)
    plan, expected = plan_of(layer), layer(x)
    for memory_format, count in product(FORMATS, (1, 2)):
        torch.set_num_threads(count)
        x = x.contiguous(memory_format=memory_format)
        actual = plan(x)
        assert_same(actual, expected)
        # with one channel or no image both formats are the same memory
        assert actual.is_contiguous(memory_format=memory_format) or x.is_contiguous()


@pytest.mark.parametrize("options", [dict(bias=True), dict(bias=False, input_norm=True), dict(input_norm=True)])
@torch.no_grad()
def test_bias_and_input_norm(isa, options):
    for case in GRID[3:6]:
        layer, x = make_conv(case, seed=2, **options)
        for memory_format in FORMATS:
            assert_same(plan_of(layer)(x.contiguous(memory_format=memory_format)), layer(x))


@pytest.mark.parametrize(("c_in", "c_out", "kernel", "stride"), [(64, 64, 3, 1), (20, 37, 3, 2), (96, 70, 1, 1)])
@torch.no_grad()
def test_whole_unit(isa, c_in, c_out, kernel, stride):
    generator = torch.Generator().manual_seed(3)
    unit = BinaryUnit(c_in, c_out, kernel, stride, dict(type="ReBNNConv2d"), dict(type="BN")).eval()
    scramble(unit, generator)
    plan = plan_of_unit(unit)
    for n, h, w in ((1, 9, 9), (3, 6, 11)):
        x = awkward(n, c_in, h, w, generator=generator)
        shortcut = awkward(n, c_out, (h - 1) // stride + 1, (w - 1) // stride + 1, generator=generator)
        for own, other in product(FORMATS, FORMATS):
            x, shortcut = x.contiguous(memory_format=own), shortcut.contiguous(memory_format=other)
            assert_same(plan(x, shortcut), unit(x, shortcut))


@pytest.mark.parametrize("shape", [(1, 64), (5, 64), (2, 3, 100), (0, 64), (130, 33), (40,)])
@pytest.mark.parametrize("c_out", [1, 17, 128])
@torch.no_grad()
def test_linear_is_the_layer(isa, shape, c_out):
    generator = torch.Generator().manual_seed(4)
    layer = ReBNNLinear(shape[-1], c_out).eval()
    scramble(layer, generator)
    x = awkward(*shape, generator=generator)
    assert_same(plan_of(layer)(x), layer(x))
    residual = torch.randn(*shape[:-1], c_out, generator=generator)
    assert_same(plan_of(layer)(x, residual), layer(x) + residual)


sizes = st.integers(1, 3)


@pytest.mark.parametrize("name", library.isas())
@given(
    groups=st.integers(1, 4),
    c_in=st.integers(1, 70),
    c_out=st.integers(1, 70),
    kernel=st.tuples(sizes, sizes),
    stride=st.tuples(sizes, sizes),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(sizes, sizes),
    n=st.integers(0, 3),
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    channels_last=st.booleans(),
    count=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
@torch.no_grad()
def test_any_geometry(
    name, groups, c_in, c_out, kernel, stride, padding, dilation, n, h, w, channels_last, count, seed
):
    case = (c_in * groups, c_out * groups, kernel, stride, padding, dilation, groups, n, h, w)
    layer, x = make_conv(case, seed)
    torch.set_num_threads(count)
    with library.use_isa(name):
        plan = plan_of(layer)
    if min(plan.geometry.output_size(h, w)) < 1:
        with pytest.raises(ValueError, match="no output pixel"):
            plan(x)
        return
    assert_same(plan(x.contiguous(memory_format=FORMATS[channels_last])), layer(x))


@torch.no_grad()
def test_shapes_change_and_threads_share_a_plan(isa):
    layer, _ = make_conv(GRID[1], seed=5)
    plan = plan_of(layer)
    generator = torch.Generator().manual_seed(5)
    inputs = [awkward(1 + i % 2, 64, 5 + i, 40 - 2 * i, generator=generator) for i in range(12)]
    expected = [layer(x) for x in inputs]
    torch.set_num_threads(2)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for actual, wanted in zip(pool.map(plan, inputs), expected, strict=True):
                assert_same(actual, wanted)


@torch.no_grad()
def test_work_split_over_threads_gives_the_same_bits(isa):
    # large enough to be split; the grid's cases may run on one thread whatever is asked for
    layer, x = make_conv((64, 96, 3, 1, 1, 1, 1, 2, 60, 50), seed=6)
    plan, expected = plan_of(layer), layer(x)
    for count, memory_format in product((1, 2, 3), FORMATS):
        torch.set_num_threads(count)
        assert_same(plan(x.contiguous(memory_format=memory_format)), expected)


@torch.no_grad()
def test_slices_and_views(isa):
    layer, x = make_conv((16, 24, 3, 1, 1, 1, 1, 2, 12, 12), seed=7)
    plan = plan_of(layer)
    wide = torch.cat([x, x], dim=1)
    for view in (
        wide[:, 8:24],
        wide.contiguous(memory_format=FORMATS[1])[:, 8:24],
        wide[:, :16, ::2, 1:],
        x.mT[:, :16],
    ):
        assert_same(plan(view), layer(view))


def test_fold_batch_norm_is_the_norm():
    generator = torch.Generator().manual_seed(8)
    for options in (dict(), dict(affine=False), dict(eps=1e-3)):
        norm = nn.BatchNorm2d(67, **options).eval()
        scramble(norm, generator)
        norm.running_var *= 10 ** torch.linspace(-4, 4, 67)
        scale, offset = (part.view(-1, 1, 1) for part in fold_batch_norm(norm))
        for memory_format, size in product(FORMATS, (1, 7, 16)):
            y = (100 * torch.randn(3, 67, size, size, generator=generator)).contiguous(memory_format=memory_format)
            assert torch.equal(fma(y, scale, offset), norm(y))


def test_fma_rounds_once():
    # 1 + 2^-12 squared is 1 + 2^-11 + 2^-24: half an ulp that a tiny c decides
    a = torch.tensor(1 + 2**-12)
    for tiny, expected in ((2.0**-80, 2**-23), (0.0, 0.0), (-(2.0**-80), 0.0)):
        assert fma(a, a, torch.tensor(tiny)) == 1 + 2**-11 + expected
    assert fma(torch.tensor(float("inf")), a, a) == float("inf")
    assert fma(torch.tensor(float("nan")), a, a).isnan()


def test_fold_needs_statistics():
    with pytest.raises(ValueError, match="track_running_stats"):
        fold_batch_norm(nn.BatchNorm2d(3, track_running_stats=False))


@pytest.mark.parametrize("name", ["sse9", "neon" if "avx2" in library.isas() else "avx2"])
def test_unknown_instruction_set(name, monkeypatch):
    monkeypatch.setenv(library.ISA_VARIABLE, name)
    with pytest.raises(ValueError, match=f"REBNN_MM_ISA='{name}'.*allowed: .*torch"):
        library.current_isa()
    with pytest.raises(ValueError, match="allowed"), library.use_isa(name):
        pass


def test_environment_chooses_the_instruction_set(monkeypatch):
    for name in library.isas():
        monkeypatch.setenv(library.ISA_VARIABLE, name)
        assert library.current_isa() == name
        assert plan_of(make_conv(GRID[0], seed=9)[0]).isa == name


@pytest.mark.slow
def test_without_the_library_one_warning_and_the_same_results(tmp_path):
    script = """
import warnings, torch
from rebnn_mm.deploy.kernels import library
library.LIBRARY_NAME = "missing.so"
from rebnn_mm.deploy.ops import Conv2dPlan
from rebnn_mm.deploy.packing import pack_signs
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(2):
        plan = Conv2dPlan(pack_signs(torch.ones(2, 3, 1, 1)), torch.ones(2), weight_shape=(2, 3, 1, 1))
assert plan(torch.ones(1, 3, 4, 4)).eq(3).all() and plan.isa == "torch"
print([str(one.message) for one in seen])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {library.ISA_VARIABLE: ""}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("missing.so was not built") == 1


@pytest.mark.skipif(not library.available(), reason="the native library is not built")
def test_native_library_says_why_it_fails():
    functions = library.load().functions
    assert functions.rebnn_conv2d_plan_bytes(b"sse9", library.Conv2dSpec()) == -1
    assert functions.rebnn_conv2d_plan_bytes(b"generic", library.Conv2dSpec()) == -1
    with pytest.raises(RuntimeError, match="instruction set"):
        library.check_status(functions.rebnn_conv2d_plan(b"sse9", library.Conv2dSpec(), 0, None, 0), "a plan")
    # a border of 2^20 pixels whose packed bits take terabytes, and one output pixel
    plan = Conv2dPlan(
        pack_signs(torch.ones(1, 1, 1, 1)), torch.ones(1), weight_shape=(1, 1, 1, 1), padding=1 << 20, stride=1 << 20
    )
    if plan.isa != library.PURE_TORCH:
        with pytest.raises(MemoryError, match="out of memory"):
            plan(torch.ones(99, 1, 1, 1))
