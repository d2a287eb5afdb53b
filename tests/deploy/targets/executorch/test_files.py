"""Seal and card of a program, what it may leave to slow kernels, and what is said without ExecuTorch."""

import json
import struct
import sys

import pytest
import torch

import rebnn_mm.deploy
from rebnn_mm.deploy import ModelCard, Preprocessing
from rebnn_mm.deploy.targets.executorch import program, verify
from rebnn_mm.deploy.targets.executorch.file import ProgramFileError, read_program, sealed
from rebnn_mm.deploy.targets.executorch.placement import Placement
from rebnn_mm.deploy.targets.executorch.program import runtime_folder
from rebnn_mm.deploy.targets.executorch.program_card import left_out, program_card, resize_of
from rebnn_mm.errors import MissingFileError, MissingPackageError, UserError

PROGRAM = bytes(range(100))


def test_a_sealed_program_comes_back(tmp_path):
    (tmp_path / "a.pte").write_bytes(sealed(PROGRAM))
    assert read_program(tmp_path / "a.pte")[:100] == PROGRAM


@pytest.mark.parametrize("at", [0, 50, 111, 125, 130, 143])
def test_a_changed_byte_is_refused(tmp_path, at):
    data = bytearray(sealed(PROGRAM))
    data[at] ^= 4
    (tmp_path / "a.pte").write_bytes(data)
    with pytest.raises(ProgramFileError, match=r"a.pte is damaged|a.pte is cut off, or no program"):
        read_program(tmp_path / "a.pte")


@pytest.mark.parametrize("size", [0, 10, 39, 100, 143])
def test_a_cut_file_is_refused(tmp_path, size):
    (tmp_path / "a.pte").write_bytes(sealed(PROGRAM)[:size])
    with pytest.raises(ProgramFileError, match="is cut off, or no program that rebnn_mm exported"):
        read_program(tmp_path / "a.pte")


@pytest.mark.parametrize(("version", "age"), [(0, "an older"), (2, "a newer")])
def test_another_version_is_named(tmp_path, version, age):
    data = bytearray(sealed(PROGRAM))
    struct.pack_into("<I", data, len(data) - 24, version)
    (tmp_path / "a.pte").write_bytes(data)
    with pytest.raises(
        ProgramFileError, match=f"exported by {age} version .program version {version}, this one reads 1"
    ):
        read_program(tmp_path / "a.pte")


def test_a_file_that_is_not_there_or_no_file(tmp_path):
    with pytest.raises(MissingFileError, match="is not there"):
        read_program(tmp_path / "a.pte")
    with pytest.raises(UserError, match="cannot read"):
        read_program(tmp_path)


def test_products_in_portable_kernels_are_refused_with_the_remedy():
    Placement(1, {"convolution": 3}, 1, {"native_layer_norm": 2, "expand_copy": 1}).check()
    for name in ("convolution", "linear", "bmm", "addmm"):
        with pytest.raises(UserError, match=f"2 {name} would run in .*a hundred times slower.*allow_slow=True"):
            Placement(1, {}, 0, {name: 2, "native_layer_norm": 2}).check()


def test_a_placement_tells_which_engine_runs_what():
    text = str(Placement(16, {"linear": 1, "convolution": 4}, 5, {}, 1, 2))
    assert text.splitlines() == [
        "this package's kernels: 16 1-bit layers, 1 real-valued convolutions, 2 nearest upsamplings",
        "XNNPACK: 5 parts, 4 convolution, 1 linear",
        "ExecuTorch's own kernels: none",
    ]


def config(*steps):
    return dict(test_dataloader=dict(dataset=dict(dataset=dict(pipeline=[dict(type="LoadImageFromFile"), *steps]))))


@pytest.mark.parametrize(
    ("steps", "resize", "crop"),
    [
        ([], None, False),
        ([dict(type="ResizeEdge", scale=256, edge="short"), dict(type="CenterCrop")], ("short", 256, 256), True),
        ([dict(type="Resize", scale=(320, 240), keep_ratio=True)], ("inside", 240, 320), False),
        ([dict(type="mmcv.Resize", scale=(320, 240))], ("exact", 240, 320), False),
        ([dict(type="Resize", scale=64)], ("exact", 64, 64), False),
    ],
)  # fmt: skip
def test_the_card_tells_how_the_test_pipeline_resizes(steps, resize, crop):
    wanted = None if resize is None else dict(zip(("mode", "height", "width"), resize, strict=True))
    assert resize_of(ModelCard(config=config(*steps))) == dict(resize=wanted, crop=crop)


def test_what_the_card_cannot_tell_of_the_test_pipeline_is_said():
    told = config(
        dict(type="ResizeEdge", scale=256, edge="short"), dict(type="CenterCrop", crop_size=224),
        dict(type="Resize", scale=(32, 32)), dict(type="Pad", size_divisor=32, pad_val=dict(img=(0, 0, 0))),
    )  # fmt: skip
    assert left_out(ModelCard(config=told)) == () == left_out(ModelCard())
    steps = [
        dict(type="mmpretrain.ResizeEdge", scale=256, edge="short", backend="pillow", interpolation="bicubic"),
        dict(type="ResizeEdge", scale=256, edge="long"),
        dict(type="Resize", scale_factor=0.5),
        dict(type="EfficientNetCenterCrop", crop_size=224),
        dict(type="Pad", size=(64, 64), pad_val=dict(img=(114, 114, 114))),
    ]
    found = left_out(ModelCard(config=config(*steps)))
    assert len(found) == len(steps) and "does not do Resize(scale_factor=0.5) of the test pipeline" in found[2]


def test_the_card_is_json_that_names_layouts():
    card = ModelCard(classes=("Käse", "b"), preprocessing=Preprocessing((1.0,) * 3, (2.0,) * 3, "bgr", (8, 9)))
    found = json.loads(program_card(card, [torch.zeros(1, 3, 8, 9), torch.zeros(1, 4).long()], 1, "classifier"))
    assert found["inputs"] == [
        dict(shape=[1, 3, 8, 9], dtype="float32", layout="nhwc"),
        dict(shape=[1, 4], dtype="int64", layout="plain"),
    ]
    assert found["classes"] == ["Käse", "b"] and found["format"] == 1
    assert found["preprocessing"]["channel_order"] == "bgr" and "size" not in found["preprocessing"]


def test_a_runtime_that_was_not_built_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("REBNN_RUNTIME", str(tmp_path))
    with pytest.raises(MissingFileError, match="has no librebnn.*sh runtime/build.sh build"):
        runtime_folder()


def test_a_torch_that_is_too_old_for_the_bindings_is_named(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.11.0+cpu")
    with pytest.raises(MissingPackageError, match=r"beside torch 2.11.0\+cpu .*needs torch 2.13 or newer; or run"):
        program._bindings.__wrapped__()  # another test may have loaded them


def test_without_executorch_the_export_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingPackageError, match="pip install 'executorch>=1.5.1,<1.6'"):
        rebnn_mm.deploy.export_executorch(tmp_path / "a.rebnn", tmp_path / "a.pte")


def test_a_network_whose_results_are_all_the_same_may_differ_by_rounding(monkeypatch):
    network, samples = torch.nn.Hardtanh(2.0, 3.0), [[torch.randn(1, 10).clamp(max=1)] for _ in range(3)]
    for wrong, refused in ((1e-6, False), (1e-3, True)):
        monkeypatch.setattr(
            verify, "runner_of", lambda data, method, by=wrong: ("a test", lambda inputs: [network(*inputs) + by])
        )
        if refused:
            with pytest.raises(UserError, match="differs from the packed network by"):
                verify.compare_program(b"", network, samples, False)
        else:
            verify.compare_program(b"", network, samples, False)


@pytest.mark.parametrize(("share", "refused"), [(0.0, False), (0.05, False), (0.2, True), (float("nan"), True)])
def test_the_comparison_refuses_what_no_turned_sign_explains(monkeypatch, share, refused):
    """``share`` of what results differ by from input to input: a mirrored image gave 0.19."""
    torch.manual_seed(0)
    network, samples = torch.nn.Identity(), [[torch.randn(1, 10)] for _ in range(9)]
    rows = torch.cat([x for (x,) in samples])
    wrong = torch.ones(1, 10) / 10**0.5 * share * float((rows - rows.mean(0)).norm(dim=1).mean())
    monkeypatch.setattr(verify, "runner_of", lambda data, method: ("a test", lambda inputs: [inputs[0] + wrong]))
    if refused:
        with pytest.raises(UserError, match="differs from the packed network by"):
            verify.compare_program(b"", network, samples, True)
    else:
        lines = verify.compare_program(b"", network, samples, True)
        assert f"{9 if share == 0 else 0} inputs agree up to rounding" in lines[1] and "of 9" in lines[2]
