"""Programs, run in Python and by the C++ library: needs ExecuTorch and a compiler, so all of it is slow."""

import ctypes
import random
import struct
import threading

import pytest
import torch
from cpp_runtime import NEEDS, run
from torch import nn

from rebnn_mm.deploy import export_model, load_model
from rebnn_mm.deploy.graph.parts import Part
from rebnn_mm.deploy.targets.executorch import program as programs
from rebnn_mm.deploy.targets.executorch.export import export_executorch
from rebnn_mm.deploy.targets.executorch.file import ProgramFileError, read_program, sealed
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReBNNLinear

pytestmark = NEEDS


class Rows(nn.Module):
    """Attention and 1-bit linear layers, as in a transformer."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(32), ReBNNLinear(32, 96), ReBNNLinear(32, 32)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), -1, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(x.shape))


def refused(done):
    """The sentence of a program that ended as it should: no crash, exit code 1."""
    assert done.returncode == 1, (done.returncode, done.stderr[-500:])
    lines = [line for line in done.stderr.splitlines() if line.startswith("rebnn_run: ")]
    assert len(lines) == 1
    return lines[0]


def test_the_export_tells_what_runs_where_and_that_it_agrees(files):
    report = files[0][2]
    assert report.placement.binary == 16 and report.placement.real == 1 and report.placement.portable == {}
    text = str(report)
    assert "ExecuTorch's own kernels: none" in text and "equal decisions: 8 of 8" in text
    assert "inputs (1, 3, 64, 96)" in text and report.size == files[0][1].stat().st_size


def test_python_gives_the_packed_networks_scores_in_any_layout(files):
    packed, path, _ = files[0]
    program, network = programs.load_executorch(path), load_model(packed)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network.logits(x)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        (found,) = program(given)
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(UserError, match=r"input 0 is torch.float32 \(1, 3, 96, 64\); the program takes"):
        program(torch.randn(1, 3, 96, 64))
    with pytest.raises(UserError, match="input 0 is torch.float64"):
        program(x.double())
    with pytest.raises(UserError, match="takes 1 inputs, got 2"):
        program(x, x)


@pytest.mark.parametrize("number", [0, 1])
def test_the_c_program_gives_the_labels_of_python(built, files, image, number):
    packed, path, _ = files[number]
    network = load_model(packed)
    with torch.no_grad():
        scores = network(torch.from_numpy(image[1]).permute(2, 0, 1)[None])[0]
    done = run(built, path, image[0], "--top", 3, "--repeat", 2)
    assert done.returncode == 0, done.stderr
    for line, index in zip(done.stdout.splitlines(), scores.argsort(descending=True)[:3].tolist(), strict=False):
        score, name = line.split("  ")
        assert name == f"class {index}" and abs(float(score) - float(scores[index])) < 2e-3
    assert "first result after" in done.stdout and "CPU time median" in done.stdout


@pytest.mark.parametrize("level", ["1-1", "1-1-1"])
def test_a_bert_of_any_level_computes_in_xnnpack_and_the_kernels(built, tmp_path, level):
    pytest.importorskip("transformers")
    from rebnn_mm.integrations.bert import NET_INPUTS, BertClassifier, token_noise

    torch.manual_seed(0)
    sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=90)
    net = BertClassifier("rte", sizes, dict(type="ReBNNLinear"), level).eval().net
    noise = token_noise(dict(bert=sizes), (12, 8))
    part = Part("", [noise[name] for name in NET_INPUTS], lambda net, *x: net(*x).logits, whole="network")
    export_model(net, tmp_path / "m.rebnn", parts=[part])
    report = export_executorch(tmp_path / "m.rebnn", tmp_path / "m.pte", length=12)
    # comparing and converting there would take most of the time
    assert not {"ge", "_to_copy", "gelu", "where"} & {*report.placement.portable}
    assert report.placement.binary == 12 and "8 inputs agree up to rounding" in str(report)
    program = programs.load_executorch(tmp_path / "m.pte")
    for row in range(2):
        x = [noise[name][row : row + 1] for name in NET_INPUTS]
        assert torch.allclose(program(*x)[0], net(*x).logits, atol=1e-5)


def test_a_profile_has_a_time_for_each_instruction(built, files, image):
    done = run(built, files[0][1], "--noise", "--repeat", 3, "--profile")
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    steps = files[0][2].placement.steps
    assert len(lines) == len(steps) and steps[0] == "real-valued convolution 7x7, 3 -> 8 channels, max-pool"
    assert [line.endswith(", own") for line in lines] == [not step.startswith("XNNPACK: ") for step in steps]
    assert "--profile goes with" in refused(run(built, files[0][1], image[0], "--profile"))


def test_threads_change_nothing_but_time(built, files, image):
    labels = [run(built, files[0][1], image[0], "--threads", n).stdout.splitlines()[:5] for n in (1, 2)]
    assert labels[0] == labels[1] and len(labels[0]) == 5


def test_jpeg_and_png_are_read(built, files, image, tmp_path):
    pil = pytest.importorskip("PIL.Image")
    expected = run(built, files[0][1], image[0]).stdout.splitlines()[:5]
    pil.fromarray(image[1]).save(tmp_path / "a.png")
    assert run(built, files[0][1], tmp_path / "a.png").stdout.splitlines()[:5] == expected
    pil.fromarray(image[1]).save(tmp_path / "a.jpg", quality=95)
    assert run(built, files[0][1], tmp_path / "a.jpg").returncode == 0
    for name in ("a.png", "a.jpg"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(data[: len(data) // 2])
        assert "no sound" in refused(run(built, files[0][1], tmp_path / f"cut_{name}"))


@pytest.mark.parametrize("endian", "<>")
def test_photos_are_read_upright(built, files, image, tmp_path, endian):
    """As Python's readers do: a phone writes how it was held into the file."""
    pil = pytest.importorskip("PIL.Image")
    from PIL import ImageOps

    found = set()
    for orientation in range(1, 9):
        exif = pil.Exif()
        exif.endian, exif[0x0112] = endian, orientation
        pil.fromarray(image[1][:-4]).save(tmp_path / "photo.jpg", quality=95, subsampling=0, exif=exif.tobytes())
        ImageOps.exif_transpose(pil.open(tmp_path / "photo.jpg")).save(tmp_path / "upright.png")
        photo, upright = (run(built, files[0][1], tmp_path / name) for name in ("photo.jpg", "upright.png"))
        labels = photo.stdout.splitlines()[:5]
        assert labels == upright.stdout.splitlines()[:5] and len(labels) == 5
        found.add(tuple(labels))
    assert len(found) == 8


def test_other_files_and_options_are_refused_with_a_sentence(built, files, image, tmp_path):
    model = files[0][1]
    (tmp_path / "text.ppm").write_text("no image at all")
    (tmp_path / "cut.ppm").write_bytes(image[0].read_bytes()[:-1])
    (tmp_path / "huge.ppm").write_bytes(b"P6\n999999999 999999999\n255\n")
    (tmp_path / "gray.pgm").write_bytes(b"P5\n4 4\n255\n" + bytes(16))
    cases = [
        ((tmp_path / "none.pte", image[0]), "No such file"),
        ((tmp_path, image[0]), "it is no file"),
        ((files[0][0], image[0]), "no program that rebnn_mm exported"),
        ((model, tmp_path / "none.ppm"), "No such file"),
        ((model, tmp_path / "text.ppm"), "is no JPEG, PNG, PPM or PGM image"),
        ((model, tmp_path / "cut.ppm"), "is cut off"),
        ((model, tmp_path / "huge.ppm"), "PPM or PGM of 8 bits|too large"),
        ((model, tmp_path / "gray.pgm"), "has 1 channels, the network takes 3"),
        ((model, "--input", image[0]), "holds .* bytes, the network's input has 73728"),
        ((model, image[0], "--threads", "0"), "a whole number, 1 to 256"),
        ((model, image[0], "--fast"), "--fast is no option"),
        ((model,), "usage"),
    ]
    import re

    for arguments, sentence in cases:
        found = refused(run(built, *arguments))
        assert re.search(sentence, found), (arguments, found)


def test_cut_and_changed_programs_are_refused(built, files, image, tmp_path):
    data = files[0][1].read_bytes()
    versions = bytearray(data)
    struct.pack_into("<I", versions, len(data) - 24, 0)
    changed = [bytes([*data[:at], data[at] ^ 8, *data[at + 1 :]]) for at in (0, 100, len(data) // 2, len(data) - 1)]
    for number, wrong in enumerate([b"", data[:20], data[:-1], data[: len(data) // 2], bytes(versions), *changed]):
        path = tmp_path / f"{number}.pte"
        path.write_bytes(wrong)
        with pytest.raises(ProgramFileError):
            read_program(path)
        assert any(w in refused(run(built, path, image[0])) for w in ("is cut off", "is damaged", "an older version"))


def test_changed_layers_under_a_sound_seal_are_refused_too(built, files, image, tmp_path):
    """Someone who seals a file anew still meets the checksum of each layer."""
    data = bytearray(read_program(files[0][1]))
    rng = random.Random(0)
    starts = [at for at in range(len(data)) if data[at : at + 8] == b"REBNNDEL"]
    assert len(starts) == 17
    for _ in range(12):
        wrong = bytearray(data)
        wrong[rng.choice(starts) + rng.randrange(288)] ^= 1 << rng.randrange(8)
        (tmp_path / "a.pte").write_bytes(sealed(bytes(wrong)))
        assert "cannot be loaded: the" in refused(run(built, tmp_path / "a.pte", image[0]))


def c_library(built):
    library = ctypes.CDLL(str(built / "librebnn.so"), mode=ctypes.RTLD_GLOBAL)
    library.rebnn_error.restype = ctypes.c_char_p
    library.rebnn_classifier_open.restype = ctypes.c_void_p
    library.rebnn_classifier_class.restype = ctypes.c_char_p
    for name in ("close", "classes", "class", "run", "run_file"):
        function = getattr(library, f"rebnn_classifier_{name}")
        function.argtypes = [ctypes.c_void_p, *(function.argtypes or [])]
    library.rebnn_classifier_class.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.rebnn_classifier_run_file.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32]
    return library


def scores_in_c(library, model, path, classes):
    scores = (ctypes.c_float * classes)()
    best = library.rebnn_classifier_run_file(model, str(path).encode(), scores, classes)
    return best, list(scores)


def test_the_c_interface_two_models_in_turn_and_many_threads(built, files, image):
    programs._bindings()  # ExecuTorch's library first
    library = c_library(built)
    assert library.rebnn_classifier_open(b"none.pte") is None and b"none.pte cannot be read" in library.rebnn_error()
    expected = []
    for packed, _, _ in files:
        with torch.no_grad():
            expected.append(load_model(packed)(torch.from_numpy(image[1]).permute(2, 0, 1)[None])[0])
    wrong = []

    def work():
        for _ in range(3):  # opened, used and closed in turn: memory of one becomes that of the other
            for (_, path, _), scores in zip(files, expected, strict=True):
                model = library.rebnn_classifier_open(str(path).encode())
                best, found = scores_in_c(library, model, image[0], len(scores))
                if (
                    best != int(scores.argmax())
                    or max(abs(a - b) for a, b in zip(found, scores.tolist(), strict=True)) > 1e-3
                ):
                    wrong.append((best, found))
                library.rebnn_classifier_close(model)

    workers = [threading.Thread(target=work) for _ in range(3)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert not wrong
    model = library.rebnn_classifier_open(str(files[0][1]).encode())
    assert library.rebnn_classifier_class(model, 2) == b"class 2" and library.rebnn_classifier_class(model, 7) is None
    assert scores_in_c(library, model, image[0], 3)[0] == -1 and b"has 7 classes, not 3" in library.rebnn_error()
    library.rebnn_classifier_close(model)


def test_a_transformer_block_from_a_module(built, tmp_path):
    torch.manual_seed(0)
    report = export_executorch(Rows().eval(), tmp_path / "a.pte", inputs=[torch.randn(1, 9, 32)])
    assert report.placement.binary == 2 and not {"bmm", "linear", "addmm"} & set(report.placement.portable)
    with pytest.raises(UserError, match="can be exported with inputs"):
        export_executorch(Rows().eval(), tmp_path / "b.pte")
    assert not (tmp_path / "b.pte").exists()


def test_linear_layers_in_eight_bits(built, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(ReBNNLinear(32, 64), nn.ReLU(), nn.Linear(64, 1000)).eval()
    x = torch.randn(4, 32)
    sizes = {}
    for small in (False, True):
        path = tmp_path / f"{small}.pte"
        report = export_executorch(model, path, inputs=[x], int8_linear=small)
        assert report.placement.binary == 1 and ("quantized_decomposed" in report.placement.xnnpack) == small
        assert not {"linear", "addmm"} & set(report.placement.portable)
        sizes[small] = report.size
        with torch.no_grad():
            wanted, (found,) = model(x), programs.load_executorch(path)(x)
        error = float((found - wanted).norm() / wanted.norm())
        assert (1e-4 < error < 0.03) if small else error < 1e-5
    assert sizes[False] - sizes[True] > 0.6 * 64 * 1000 * 4


def test_a_program_that_is_another_network_is_not_written(built, files):
    from rebnn_mm.deploy.targets.executorch import verify

    network = load_model(files[0][0]).network
    samples = [[torch.randn(1, 3, 64, 96)] for _ in range(4)]
    with pytest.raises(UserError, match="differs from the packed network by"):
        verify.compare_program(read_program(files[0][1]), Turned(network), samples, True)


class Turned(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.flip(1, 2, 3))
