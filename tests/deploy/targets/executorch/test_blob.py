"""The bytes of a 1-bit layer in an ExecuTorch program, written in Python and read by the C++ library."""

import shutil
import struct
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from arm import COMPILER, EMULATOR, needs_arm

import rebnn_mm.deploy.kernels
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import TENSORS, Epilogue, InputSide, tensors_of
from rebnn_mm.deploy.targets.executorch.blob import (
    Places,
    seal,
    write_blob,
    write_nearest_blob,
    write_real_blob,
)

KERNELS = Path(rebnn_mm.deploy.kernels.__file__).parent
RUNTIME = Path(__file__).parents[4] / "runtime"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
X86 = {"isa_avx512.cpp": ["-mavx512f", "-mavx512bw", "-mavx512vpopcntdq"], "isa_avx2.cpp": ["-mavx2", "-mfma"]}
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")


def build(folder: Path, *flags: str, layers: bool = False, compiler: str = "g++") -> Path:
    """``blob_test`` without ExecuTorch; with ``layers`` it runs them, and needs the kernels."""

    def compile_one(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        isa = [] if compiler == COMPILER else X86.get(source.name, [])
        subprocess.run([compiler, "-std=c++17", *flags, *isa, f"-I{KERNELS}", "-c", source, "-o", target], check=True)
        return str(target)

    sources = [RUNTIME / "tests/blob_test.cpp", RUNTIME / "src/blob.cpp", RUNTIME / "src/json.cpp"]
    if layers:
        flags = (*flags, "-DWITH_LAYERS")
        sources += [
            *(RUNTIME / f"src/{name}.cpp" for name in ("layer", "memory", "nearest", "real_conv")),
            *KERNELS.glob("*.cpp"),
        ]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    program = folder / "blob_test"
    subprocess.run([compiler, *flags, "-pthread", *objects, "-o", program], check=True)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("blob"), "-O0", "-w")


def layer(full: bool = True, linear: bool = False):
    """(bits, spec, before, after) with every vector there is, or with alpha alone."""
    torch.manual_seed(3)
    shape = (33, 40, 1, 1) if linear else (36, 20, 3, 2)
    spec = ConvSpec(shape) if linear else ConvSpec(shape, (2, 1), (1, 0), (1, 2), 2)
    out, into = (lambda: torch.randn(spec.c_out)), (lambda: torch.randn(spec.c_in))
    before, after = InputSide(), Epilogue(out())
    if full:
        before = InputSide(into(), (into(), into()))
        after = Epilogue(
            out(), out(), (out(), out()), out(), out(), out(), (-2.5, 30.0), (out(), out()), True,
            InputSide(out(), (out(), out())),
        )  # fmt: skip
    return to_bits(torch.randn(shape)), spec, before, after


FULL, PLAIN = Places(1, 0, 2, 3, 4), Places(0, None, 1, None, 2)


def read(program: Path, folder: Path, blob: bytes) -> list[str]:
    (folder / "blob").write_bytes(blob)
    return subprocess.run([program, "read", folder / "blob"], capture_output=True, text=True).stdout.splitlines()


def check_refused(program: Path, folder: Path, blob: bytes, place: str, value: float, sentence: str) -> None:
    """With ``value`` at ``place`` ("format offset") and a sound checksum, the blob is refused with this sentence."""
    changed = bytearray(blob)
    form, offset = place.split()
    struct.pack_into(form, changed, int(offset), value)
    (line,) = read(program, folder, seal(bytes(changed[24:])))
    assert line.startswith("refused: ") and sentence in line


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_the_library_reads_what_is_written(program, tmp_path, full, linear):
    bits, spec, before, after = layer(full, linear)
    blob = write_blob(bits, spec, before, after, FULL if full else PLAIN, linear)
    first, found, *vectors = read(program, tmp_path, blob)
    sizes = [spec.c_in, spec.c_out, *spec.weight_shape[2:], *spec.stride, *spec.padding, *spec.dilation, spec.groups]
    around = [1, 1, -2.5, 30, 1, 0, 2, 3, 4] if full else [0, 0, 0, 0, 0, -1, 1, -1, 2]
    assert first.split() == [f"{value:g}" for value in (int(linear), 0, *sizes, *around)]
    assert found == f"{bits.numel()} {zlib.crc32(bits.numpy()):08x}"
    tensors = tensors_of(before, after)
    expected = [f"{zlib.crc32(tensors[name].numpy()):08x}" if name in tensors else "-" for name in TENSORS]
    assert vectors == expected


def real_layer(max_pool: bool = True):
    """Arguments of ``write_real_blob``; more output channels than lie beside each other in the kernels."""
    torch.manual_seed(4)
    spec = ConvSpec((70, 3, 5, 4), (2, 2), (2, 2))
    norm = (torch.randn(70), torch.randn(70))
    return torch.randn(spec.weight_shape), spec, norm, (0.0, float("inf")), max_pool, Places(0, None, 1, None, 2)


@needs_compiler
@pytest.mark.parametrize("max_pool", [False, True])
def test_the_library_reads_real_valued_convolutions(program, tmp_path, max_pool):
    weight, spec, norm, *_ = real_layer()
    first, bits, *vectors = read(program, tmp_path, write_real_blob(*real_layer(max_pool)))
    sizes = [3, 70, 5, 4, 2, 2, 2, 2, 1, 1, 1]
    assert first.split() == [
        f"{value:g}" for value in (2, 8 * max_pool, *sizes, 1, 0, 0, float("inf"), 0, -1, 1, -1, 2)
    ]
    rows = weight.permute(0, 2, 3, 1).contiguous().numpy()
    assert bits == f"{rows.nbytes} {zlib.crc32(rows):08x}"
    given = dict(zip(("scale", "offset"), norm, strict=True))
    assert vectors == [f"{zlib.crc32(given[name].numpy()):08x}" if name in given else "-" for name in TENSORS]


@needs_compiler
@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("<I 24", 4, "unknown kind"),
        ("<I 24", 3, "unknown kind"),  # upsampling has no flags
        ("<I 28", 1 + 4, "unknown kind"),
        ("<I 28", 8, "lacks its clamp"),
        ("<q 64", 1, "sizes that no layer has"),
        ("<q 80", 3, "sizes that no layer has"),
        ("<q 96", 2, "sizes that no layer has"),
        ("<q 112", 2, "sizes that no layer has"),
        ("<q 40", 1 << 21, "sizes that no layer has"),
        ("<i 140", 0, "a shortcut or signs"),
        ("<q 160", 4, "another length"),
        ("<q 208", -1, "more than its vectors"),
    ],
)
def test_wrong_numbers_in_a_real_valued_convolution_are_refused(program, tmp_path, place, value, sentence):
    check_refused(program, tmp_path, write_real_blob(*real_layer()), place, value, sentence)


@needs_compiler
def test_the_library_reads_nearest_upsampling(program, tmp_path):
    first, bits, *vectors = read(program, tmp_path, write_nearest_blob(5, (2, 3), PLAIN))
    sizes = [5, 5, 1, 1, 2, 3, 0, 0, 1, 1, 1]
    assert first.split() == [f"{value:g}" for value in (3, 0, *sizes, 0, 0, 0, 0, 0, -1, 1, -1, 2)]
    assert bits == "0 00000000" and vectors == ["-"] * len(TENSORS)


@needs_compiler
@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("<I 28", 1, "unknown kind"),
        ("<q 32", 6, "sizes that no layer has"),
        ("<q 64", 0, "sizes that no layer has"),
        ("<q 64", 65, "sizes that no layer has"),
        ("<q 80", 1, "sizes that no layer has"),
        ("<i 140", 0, "a shortcut or signs"),
        ("<q 160", 1, "another length"),
        ("<q 208", 20, "is cut off"),
    ],
)
def test_wrong_numbers_in_nearest_upsampling_are_refused(program, tmp_path, place, value, sentence):
    check_refused(program, tmp_path, write_nearest_blob(5, (2, 3), PLAIN), place, value, sentence)


def test_a_real_valued_convolution_that_the_kernels_lack_is_refused():
    weight, _, norm, *rest = real_layer()
    with pytest.raises(ValueError, match="a weight of one group, without dilation, alike in both directions"):
        write_real_blob(weight, ConvSpec((70, 3, 5, 4), (2, 1)), norm, *rest)
    with pytest.raises(ValueError, match="scale"):
        write_real_blob(*real_layer()[:2], (torch.ones(3), norm[1]), *rest)


@needs_compiler
def test_every_cut_and_every_changed_byte_is_refused_with_a_sentence(program, tmp_path):
    blob = write_blob(*layer(), FULL)
    wrong = [blob[:size] for size in (0, 7, 23, 24, 287, 288, len(blob) - 1)] + [blob + b"\0"]
    wrong += [bytes([*blob[:at], blob[at] ^ 1, *blob[at + 1 :]]) for at in (0, 9, 13, 17, 40, 200, 300, len(blob) - 1)]
    for data in wrong:
        (line,) = read(program, tmp_path, data)
        assert line.startswith("refused: the") and len(line) > 30, line


@needs_compiler
@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("<I 24", 2, "unknown kind"),
        ("<I 28", 8, "unknown kind"),
        ("<q 32", 0, "sizes that no layer has"),
        ("<q 40", 1 << 21, "sizes that no layer has"),
        ("<q 40", 35, "sizes that no layer has"),
        ("<q 48", 1 << 20, "sizes that no layer has"),
        ("<q 112", 3, "sizes that no layer has"),
        ("<d 120", float("nan"), "clamp is empty"),
        ("<i 136", 2, "misplaced"),
        ("<i 140", 1, "misplaced"),
        ("<i 140", 2, "misplaced"),
        ("<i 144", 3, "misplaced"),
        ("<i 152", 1 << 30, "misplaced"),
        ("<q 160", -1, "another length"),
        ("<q 168", 4, "another length"),
        ("<q 192", -1, "more than its vectors"),
        ("<q 40", 37 * 2, "another length"),
    ],
)
def test_sound_checksums_over_wrong_numbers_are_refused(program, tmp_path, place, value, sentence):
    check_refused(program, tmp_path, write_blob(*layer(), FULL), place, value, sentence)


@needs_compiler
def test_the_shortcut_may_be_the_input_itself(program, tmp_path):
    bits, spec, before, _ = layer(False, True)
    after = Epilogue(torch.randn(spec.c_out))
    first, *_ = read(program, tmp_path, write_blob(bits, spec, before, after, Places(0, 0, 1, None, 2), True))
    assert first.split()[-5:] == ["0", "0", "1", "-1", "2"]


@needs_compiler
@pytest.mark.parametrize(("version", "sentence"), [(0, "an older version: export"), (2, "a newer version: build")])
def test_other_versions_are_named(program, tmp_path, version, sentence):
    blob = bytearray(write_blob(*layer(), FULL))
    struct.pack_into("<I", blob, 8, version)
    (line,) = read(program, tmp_path, bytes(blob))
    assert sentence in line


def test_a_layer_that_does_not_fit_its_places_is_refused():
    with pytest.raises(ValueError, match="are not those of the layer"):
        write_blob(*layer(), PLAIN)
    with pytest.raises(ValueError, match="signs come behind shift and norm"):
        write_blob(*layer(), FULL, signs_in=True)


@needs_compiler
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": [1, -2.5e3, true, null, {}], "name": "K\\u00e4se \\ud83d\\ude00 \\"\\n"}', 'Käse 😀 "\n'),
        (' { "name" : "ü" } ', "ü"),
        ('{"name": 3}', "the program's card is malformed: a text is missing"),
        ('{"name": "a"', "the program's card is malformed: a list without an end"),
        ('{"name": "a"} x', "the program's card is malformed: something follows its end"),
        ("[" * 40, "the program's card is malformed: it is nested too deeply"),
        ('{"a": 1.2.3, "name": "a"}', "the program's card is malformed: a number that is none"),
        ("", "the program's card is malformed: a number that is none"),
    ],
)
def test_cards_are_read_as_json(program, tmp_path, text, found):
    (tmp_path / "card").write_text(text, encoding="utf-8")
    done = subprocess.run([program, "json", tmp_path / "card"], capture_output=True)
    assert done.returncode == 0 and done.stdout.decode() == f"{found}\n"


def kinds_of_blobs():
    """One of each kind that the delegate takes."""
    cases = [(layer(), FULL, {}), (layer(False), PLAIN, {}), (layer(False, True), PLAIN, dict(linear=True))]
    cases += [(layer(False), PLAIN, dict(signs_in=True)), (layer(False, True), PLAIN, dict(linear=True, signs_in=True))]
    # the shortcut is the input, which is as long as the result here
    square = ConvSpec((33, 33, 1, 1))
    own = (to_bits(torch.randn(square.weight_shape)), square, InputSide(), Epilogue(torch.randn(33)))
    cases.append((own, Places(0, 0, 1, None, 2), dict(linear=True)))
    blobs = [write_blob(*arguments, places, **kind) for arguments, places, kind in cases]
    blobs += [write_real_blob(*real_layer(pool)) for pool in (True, False)]
    return [*blobs, write_nearest_blob(5, (2, 3), PLAIN)]


@pytest.mark.slow
@needs_arm
def test_arm_reads_blobs_and_runs_changed_ones(program, tmp_path):
    on_arm = build(tmp_path, "-O1", "-w", "-static", layers=True, compiler=COMPILER)
    for blob in kinds_of_blobs():
        wanted = read(program, tmp_path, blob)
        done = subprocess.run([EMULATOR, on_arm, "read", tmp_path / "blob"], capture_output=True, text=True)
        assert done.stdout.splitlines() == wanted
        done = subprocess.run([EMULATOR, on_arm, "fuzz", tmp_path / "blob", "200"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.endswith(" 0 taken but not run\n"), done.stdout + done.stderr


@pytest.mark.slow
@needs_compiler
def test_changed_blobs_are_never_read_outside(tmp_path):
    (tmp_path / "empty.cpp").write_text("int main() {}")
    empty = subprocess.run(["g++", *SANITIZE, tmp_path / "empty.cpp", "-o", tmp_path / "empty"], capture_output=True)
    if empty.returncode or subprocess.run([tmp_path / "empty"], capture_output=True).returncode:
        pytest.skip("needs a g++ with the libraries of its sanitizers")
    program = build(tmp_path, "-O1", "-w", *SANITIZE, layers=True)
    for blob in kinds_of_blobs():
        (tmp_path / "sound").write_bytes(blob)
        done = subprocess.run([program, "fuzz", tmp_path / "sound", "20000"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        refused, ran, failed = (int(part.split()[0]) for part in done.stdout.split(", "))
        assert refused > 5000 and ran > 50 and failed == 0, done.stdout
    (tmp_path / "card").write_text('{"name": "a\\u00e4", "b": [1, 2.5e-3, {"c": [true, false, null]}], "d": "\\\\"}')
    done = subprocess.run([program, "json", tmp_path / "card", "50000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
