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
from rebnn_mm.deploy.kernels.buffers import LastUsed, Workspaces
from rebnn_mm.deploy.layers.native_conv2d import SHAPES, wider_pixel
from rebnn_mm.deploy.layers.operators import Conv2dPlan, LinearPlan, fold_batch_norm
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.reference import fma, reference_conv2d
from rebnn_mm.deploy.operation.signs import from_signs, to_signs
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide, checked
from rebnn_mm.functional import sign
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


def plan_of(layer, shift=None, **after):
    linear = isinstance(layer, ReBNNLinear)
    spec = (
        ConvSpec.linear(*layer.weight.shape)
        if linear
        else ConvSpec.of(layer.weight.shape, layer.stride, layer.padding, layer.dilation, layer.groups)
    )
    norm = None if layer.input_norm is None else fold_batch_norm(layer.input_norm)
    after = Epilogue(layer.alpha, layer.bias, **after)
    return (LinearPlan if linear else Conv2dPlan)(to_bits(layer.weight), spec, InputSide(shift, norm), after)


def plan_of_unit(unit):
    act = unit.act
    steps = dict(before=act.before.shift, slope=act.prelu.weight, after=act.after.shift)
    return plan_of(unit.conv, shift=unit.shift.shift, norm=fold_batch_norm(unit.norm), **steps)


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


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_the_first_channels_of_wider_pixels(isa, groups, n):
    """A view of a channels-last tensor is read where it is; of other views there is a copy."""
    layer, x = make_conv((40, 24, 3, 1, 1, 1, groups, n, 7, 5), 0)
    wide = torch.full((n, 57, 7, 5), torch.nan).contiguous(memory_format=torch.channels_last)
    plan, expected = plan_of(layer), layer(x)
    for start in (0, 17):
        wide.fill_(torch.nan)[:, start : start + 40] = x
        for count in (1, 3):
            torch.set_num_threads(count)
            for _ in range(2):
                assert_same(plan(wide[:, start : start + 40]), expected)
    assert_same(plan(x.repeat(1, 1, 1, 2)[..., :5]), expected)
    assert wider_pixel(wide[:, :40]) == 57 and wider_pixel(wide) == wider_pixel(x) == 0
    assert wider_pixel(wide[:, :40, 1:]) == 0 or n == 0


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
    if min(plan.spec.output_size(h, w)) < 1:
        with pytest.raises(ValueError, match="no output pixel"):
            plan(x)
        return
    assert_same(plan(x.contiguous(memory_format=FORMATS[channels_last])), layer(x))


def random_epilogue(draw, channels, generator):
    """Any choice of the steps, with awkward numbers in all of them."""

    def vector(positive=False):
        values = awkward(channels, generator=generator).nan_to_num(0.3)
        return values.abs() + 0.1 if positive else values

    def maybe(make):
        return make() if draw(st.booleans()) else None

    def norm():
        return vector(), vector()

    steps = {name: maybe(vector) for name in ("bias", "before", "after")}
    steps |= {name: maybe(norm) for name in ("norm", "last_norm")}
    slope = maybe(lambda: vector()[: draw(st.sampled_from((1, channels)))])
    inf = float("inf")
    clamp = draw(st.sampled_from((None, (0.0, inf), (0.0, 6.0), (-1.0, 1.0), (-inf, -0.5))))
    sign = maybe(lambda: InputSide(maybe(vector), maybe(norm)))
    floats = sign is None or draw(st.booleans())
    return Epilogue(
        vector(positive=True), **steps, slope=slope, clamp=clamp, residual_last=draw(st.booleans()), sign=sign,
        floats=floats,
    )  # fmt: skip


def both(result, after):
    """(floats or None, signs or None) of what a plan returned."""
    if after.sign is None:
        return result, None
    return result if after.floats else (None, result)


@pytest.mark.slow
@pytest.mark.parametrize("name", library.isas())
@given(data=st.data(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=80)
@torch.no_grad()
def test_any_epilogue_from_floats_and_from_signs(name, data, seed):
    draw, generator = data.draw, torch.Generator().manual_seed(seed)
    groups, kernel = draw(st.sampled_from((1, 1, 2, 3))), draw(st.sampled_from((1, 3)))
    c_in, c_out = groups * draw(st.integers(1, 70)), groups * draw(st.integers(1, 70))
    spec = ConvSpec.of((c_out, c_in // groups, kernel, kernel), draw(st.integers(1, 2)), kernel // 2, 1, groups)
    n, h, w = draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    after = random_epilogue(draw, c_out, generator)
    weight = torch.randn(spec.weight_shape, generator=generator)
    x = awkward(n, c_in, h, w, generator=generator)
    residual = awkward(n, c_out, *spec.output_size(h, w), generator=generator) if draw(st.booleans()) else None
    with library.use_isa(name):
        plan = Conv2dPlan(to_bits(weight), spec, InputSide(), after)
    torch.set_num_threads(draw(st.integers(1, 2)))
    wanted = reference_conv2d(x, sign(weight), spec, *checked(spec, InputSide(), after), residual)
    for given_x in (x.contiguous(memory_format=draw(st.sampled_from(FORMATS))), to_signs(x)):
        floats, signs = both(plan(given_x, residual), after)
        if floats is not None:
            assert_same(floats, wanted[0])
        if after.sign is not None:
            assert signs.dtype == torch.int32 and torch.equal(signs, wanted[1])


@torch.no_grad()
def test_activations_are_those_of_torch(isa):
    layer, x = make_conv(GRID[5], seed=11)
    y = layer(x)
    slope = torch.rand(33)
    for module, steps in (
        (nn.ReLU(), dict(clamp=(0.0, float("inf")))),
        (nn.ReLU6(), dict(clamp=(0.0, 6.0))),
        (nn.Hardtanh(), dict(clamp=(-1.0, 1.0))),
        (nn.LeakyReLU(0.1), dict(slope=torch.tensor([0.1]))),
        (nn.PReLU(33), dict(slope=slope)),
    ):
        if isinstance(module, nn.PReLU):
            module.weight.copy_(slope)
        assert_same(plan_of(layer, **steps)(x), module(y))
    norm = nn.BatchNorm2d(33).eval()
    scramble(norm, torch.Generator().manual_seed(1))
    relu = dict(clamp=(0.0, float("inf")))
    assert_same(plan_of(layer, **relu, last_norm=fold_batch_norm(norm))(x), norm(y.relu()))


@torch.no_grad()
def test_signs_pass_between_layers(isa):
    first, x = make_conv((40, 70, 3, 1, 1, 1, 1, 2, 9, 8), seed=12)
    second, _ = make_conv((70, 33, 3, 2, 1, 1, 1, 2, 9, 8), seed=13, input_norm=True)
    shift, norm = torch.randn(70), fold_batch_norm(second.input_norm)
    y = first(x)
    expected = second(y + shift.view(-1, 1, 1))
    second.input_norm = None
    floats, signs = plan_of(first, sign=InputSide(shift, norm))(x)
    assert_same(floats, y)
    assert floats.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plan_of(first, sign=InputSide(shift, norm), floats=False)(x), signs)
    assert_same(plan_of(second)(signs), expected)


@pytest.mark.parametrize("rows", [(5,), (2, 3), (0,), (130,)])
@torch.no_grad()
def test_signs_pass_between_linear_layers(isa, rows):
    generator = torch.Generator().manual_seed(14)
    layers = [ReBNNLinear(c_in, c_out).eval() for c_in, c_out in ((40, 70), (70, 30))]
    for layer in layers:
        layer._alpha_pending = False
        scramble(layer, generator)
    x = awkward(*rows, 40, generator=generator)
    floats, signs = plan_of(layers[0], sign=InputSide())(x)
    assert_same(floats, layers[0](x))
    assert signs.shape == (*rows, 3)
    assert_same(plan_of(layers[1])(signs), layers[1](layers[0](x)))


def test_signs_are_those_of_the_tensor():
    x = awkward(2, 70, 3, 5, generator=torch.Generator().manual_seed(15))
    signs = to_signs(x)
    assert signs.shape == (2, 3, 5, 3) and signs.dtype == torch.int32
    assert torch.equal(from_signs(signs, 70), sign(x))
    assert not (signs[..., 2] >> 6).any()  # no bit behind the last channel


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
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide
from rebnn_mm.deploy.layers.operators import Conv2dPlan
from rebnn_mm.deploy.operation.bits import to_bits
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(2):
        plan = Conv2dPlan(
            to_bits(torch.ones(2, 3, 1, 1)), ConvSpec((2, 3, 1, 1)), InputSide(), Epilogue(torch.ones(2))
        )
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
    # a border of 2^20 pixels whose bits take terabytes, and one output pixel
    spec = ConvSpec.of((1, 1, 1, 1), padding=1 << 20, stride=1 << 20)
    plan = Conv2dPlan(to_bits(torch.ones(1, 1, 1, 1)), spec, InputSide(), Epilogue(torch.ones(1)))
    if plan.isa != library.PURE_TORCH:
        with pytest.raises(MemoryError, match="out of memory"):
            plan(torch.ones(99, 1, 1, 1))


@pytest.mark.skipif(not library.available(), reason="the native library is not built")
@torch.no_grad()
def test_what_is_kept_between_calls_is_bounded():
    layer, _ = make_conv(GRID[0], seed=16)
    plan = plan_of(layer)
    if plan.isa == library.PURE_TORCH:
        pytest.skip("nothing is kept")
    for size in (*range(3, 3 + 2 * SHAPES), 4, 4):
        x = torch.randn(1, 64, size, size)
        assert_same(plan(x), layer(x))
    assert len(plan._native._tables) == SHAPES


def test_buffers():
    kept = LastUsed(2)
    for key in "abac":  # b was not used since
        if kept.get(key) is None:
            kept.put(key, key)
    assert [kept.get(key) for key in "abc"] == ["a", None, "c"] and len(kept) == 2
    own = Workspaces()
    small = own.of(100)
    assert small.address % 64 == 0 and own.of(50) is small
    large = own.of(200)
    assert large is not small and own.of(100) is large
    huge = own.of(Workspaces.KEPT + 1)
    assert huge.size > Workspaces.KEPT and own.of(100) is large
    with ThreadPoolExecutor(1) as pool:  # a call in another thread may run at the same time
        assert pool.submit(own.of, 100).result() is not large
