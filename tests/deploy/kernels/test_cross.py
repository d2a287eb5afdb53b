"""The kernels without Python around them: cross-compiled for ARM and run in an emulator, and under sanitizers."""

import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from arm import COMPILER, EMULATOR, needs_arm
from torch import Tensor

import rebnn_mm.deploy.kernels
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.reference import reference_conv2d
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import TENSORS, Epilogue, InputSide, tensors_of
from rebnn_mm.functional import sign

SOURCES = Path(rebnn_mm.deploy.kernels.__file__).parent
HARNESS = Path(__file__).with_name("run_cases.cpp")
FLAGS = ["-std=c++17", "-ffp-contract=off", "-w", "-pthread", f"-I{SOURCES}"]
X86 = {"isa_avx512.cpp": ["-mavx512f", "-mavx512bw", "-mavx512vpopcntdq"], "isa_avx2.cpp": ["-mavx2", "-mfma"]}

# weight_shape, stride, padding, dilation, groups, n, h, w
CASES = [
    ((64, 64, 3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 9, 9),
    ((33, 70, 3, 3), (2, 1), (1, 1), (1, 1), 1, 2, 9, 11),
    ((50, 96, 5, 5), (1, 1), (2, 2), (1, 1), 1, 1, 7, 6),
    ((24, 40, 2, 3), (1, 2), (0, 3), (2, 1), 2, 1, 8, 7),
    ((21, 1, 3, 3), (1, 1), (1, 1), (1, 1), 21, 1, 7, 7),
    ((10, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1, 2, 6, 5),
    ((40, 512, 1, 1), (1, 1), (0, 0), (1, 1), 1, 1, 5, 3),
    ((16, 7400, 3, 3), (1, 1), (1, 1), (1, 1), 1, 1, 2, 2),
    ((40, 1, 17, 17), (1, 1), (8, 8), (1, 1), 40, 1, 9, 8),
    ((96, 1, 3, 3), (2, 2), (1, 1), (1, 1), 96, 2, 11, 10),
]


def floats(value: Tensor | None, channels_last: bool = False) -> bytes:
    if value is None:
        return struct.pack("<q", 0)
    if channels_last:
        value = value.permute(0, 2, 3, 1)
    return struct.pack("<q", value.numel()) + value.contiguous().numpy().tobytes()


def case_bytes(number: int) -> bytes:
    """One case as run_cases.cpp reads it; every second one is channels_last and has all parameters."""
    weight_shape, stride, padding, dilation, groups, n, h, w = CASES[number]
    spec = ConvSpec(weight_shape, stride, padding, dilation, groups)
    full = channels_last = number % 2 == 0
    torch.manual_seed(number)
    weight = torch.randn(weight_shape)
    x = torch.randn(n, spec.c_in, h, w)
    x.view(-1)[::7], x.view(-1)[3::11], x.view(-1)[5::101] = 0.0, -0.0, float("nan")
    out, into = (lambda: torch.randn(spec.c_out)), (lambda: torch.randn(spec.c_in))
    before, after = InputSide(), Epilogue(out())
    if full:
        before = InputSide(into(), (into(), into()))
        rprelu = dict(before=out(), slope=out(), after=out())
        after = Epilogue(
            out(), out(), (out(), out()), **rprelu, clamp=(-30.0, 30.0), last_norm=(out(), out()),
            residual_last=number % 4 == 0, sign=InputSide(out(), (out(), out())),
        )  # fmt: skip
    residual = torch.randn(n, spec.c_out, *spec.output_size(h, w)) if full else None
    expected, signs = reference_conv2d(x, sign(weight), spec, before, after, residual)
    bits = to_bits(weight)
    sizes = (spec.c_in, spec.c_out, *weight_shape[2:], *stride, *padding, *dilation, groups)
    low, high = after.clamp or (0.0, 0.0)
    return b"".join(
        [
            struct.pack("<13q2d", *sizes, after.clamp is not None, after.residual_last, low, high),
            struct.pack("<5q", n, h, w, channels_last, bits.numel()),
            bits.numpy().tobytes(),
            *(floats(tensors_of(before, after).get(name)) for name in TENSORS),
            *(floats(value, channels_last) for value in (x, residual, expected)),
            struct.pack("<q", 0) if signs is None else struct.pack("<q", signs.numel()) + signs.numpy().tobytes(),
        ]
    )


def build(folder: Path, compiler: str, *flags: str) -> Path:
    """The harness and all kernels as one program."""

    def compile_one(source: Path) -> str:
        target = folder / (source.stem + ".o")
        isa = [] if compiler == COMPILER else X86.get(source.name, [])
        subprocess.run([compiler, *FLAGS, *flags, *isa, "-c", source, "-o", target], check=True)
        return str(target)

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compile_one, [HARNESS, *SOURCES.glob("*.cpp")]))
    program = folder / "run_cases"
    subprocess.run([compiler, *flags, "-pthread", *objects, "-o", program], check=True)
    return program


def run_cases(folder: Path, *command: str) -> str:
    cases = folder / "cases"
    cases.write_bytes(b"".join(map(case_bytes, range(len(CASES)))))
    done = subprocess.run([*command, cases], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@needs_arm
def test_arm_gives_the_same_bits(tmp_path):
    program = build(tmp_path, COMPILER, "-O2", "-static")
    assert run_cases(tmp_path, EMULATOR, program) == "neon generic - 10 cases, 20 runs, 0 wrong\n"


SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def can_sanitize(folder: Path) -> bool:
    """Whether there is a g++ whose programs run under address sanitizer."""
    source, program = folder / "empty.cpp", folder / "empty"
    source.write_text("int main() {}")
    if not shutil.which("g++"):
        return False
    built = subprocess.run(["g++", *SANITIZE, source, "-o", program], capture_output=True)
    return built.returncode == 0 and subprocess.run([program], capture_output=True).returncode == 0


@pytest.mark.slow
def test_no_access_out_of_bounds_and_nothing_undefined(tmp_path):
    if not can_sanitize(tmp_path):
        pytest.skip("needs a g++ with the libraries of its address and undefined-behaviour sanitizers")
    program = build(tmp_path, "g++", "-O0", *SANITIZE)
    assert "10 cases" in run_cases(tmp_path, program)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_bad_calls_are_refused_by_optimized_kernels(tmp_path):
    program = build(tmp_path, "g++", "-O1")
    assert "0 wrong" in run_cases(tmp_path, program)
