"""What a packed network can be written as."""

import sys

import pytest
import torch
from graph_toys import settle
from torch import nn

from rebnn_mm.deploy import export_model
from rebnn_mm.deploy.targets import TARGETS, convert_file, target_of
from rebnn_mm.errors import MissingFileError, MissingPackageError, UserError
from rebnn_mm.layers import ReBNNConv2d
from rebnn_mm.workflows import engines
from rebnn_mm.workflows.engines import ExportOptions, export_to


@pytest.fixture
def plain(tmp_path):
    export_model(settle(nn.Sequential(nn.Conv2d(3, 8, 3), ReBNNConv2d(8, 8, 3))), tmp_path / "plain.rebnn")
    return tmp_path / "plain.rebnn"


def test_the_target_is_named_or_the_ending_says_it():
    assert {name: target_of(f"m{target.suffix}") for name, target in TARGETS.items()} == {n: n for n in TARGETS}
    assert target_of("m", "onnx") == target_of("m.onnx", "onnx") == "onnx"
    assert target_of("m", otherwise="rebnn") == "rebnn"
    for otherwise in (None, "rebnn"):  # a file of one engine with the ending of another would mislead
        with pytest.raises(UserError, match=r"m.tflite: say what to write with --to rebnn\|onnx\|openvino\|executorch"):
            target_of("m.tflite", otherwise=otherwise)
    with pytest.raises(UserError, match="--to tflite: one of rebnn, onnx, openvino, executorch"):
        target_of("m.tflite", "tflite")
    with pytest.raises(UserError, match="m.pte ends as a file of executorch does, and --to onnx writes .onnx"):
        target_of("m.pte", "onnx")


def test_options_of_another_target_are_refused(plain, tmp_path):
    for to, options, message in (
        ("onnx", dict(size=(3, 4), allow_slow=True), "--to onnx has no --size, --allow-slow; it takes form, part"),
        ("rebnn", dict(part="neck"), "--to rebnn has no --part; it takes no option"),
        ("openvino", dict(form="packed"), "--to openvino has no --form"),
    ):
        with pytest.raises(UserError, match=message):
            convert_file(plain, tmp_path / "out", to, **options)
    assert not (tmp_path / "out").exists()


def test_a_file_is_not_written_over_itself_nor_made_of_nothing(plain, tmp_path):
    before = plain.read_bytes()
    for write in (convert_file, lambda source, out: export_to([source], out)):
        with pytest.raises(UserError, match="is the file that is to be read"):
            write(plain, plain)
    checkpoint = tmp_path / "trained.pth"
    checkpoint.write_bytes(b"trained")
    with pytest.raises(UserError, match="is the file that is to be read"):
        export_to(["config.py", checkpoint], checkpoint, to="rebnn")
    assert checkpoint.read_bytes() == b"trained"
    with pytest.raises(MissingFileError):
        convert_file(tmp_path / "none.rebnn", tmp_path / "copy.rebnn")
    convert_file(plain, tmp_path / "copy.rebnn")
    assert plain.read_bytes() == before == (tmp_path / "copy.rebnn").read_bytes()


@pytest.mark.parametrize(
    ("out", "to", "engine", "message"),
    [
        ("no/m.rebnn", None, {}, "no does not exist: make it first"),
        ("no/m.onnx", None, {}, "no does not exist: make it first"),
        (".", "rebnn", {}, "it is a folder"),
        ("m.bin", "openvino", {}, "OpenVINO's files end in .xml"),
        ("m.onnx", None, dict(size=(3, 4)), "--to onnx has no --size"),
        ("m.onnx", None, dict(max_size=(3, 4)), "--to onnx has no --max-size"),
        ("m.onnx", None, dict(part="boxes", max_size=(3, 4)), "are for programs of executorch"),
        ("m.onnx", None, dict(part="boxes", size=(3, 4), length=3), "are for programs of executorch"),
        ("m.onnx", None, dict(part="boxes"), "give --size H W, not None"),
        ("m.rebnn", None, dict(part="boxes", size=(3, 4)), "rebnn has not"),
        ("m.pte", None, dict(part="boxes", form="packed"), "--part boxes of executorch takes"),
    ],
)
def test_what_is_refused_is_refused_before_the_network_is_read(tmp_path, monkeypatch, out, to, engine, message):
    """An export takes minutes, and these came up at its end."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    monkeypatch.setattr(engines, "read_config", lambda *args: pytest.fail("it was read"))
    with pytest.raises(UserError, match=message):
        export_to(["config.py", "c.pth"], tmp_path / out, to, engine=engine)
    assert not list(tmp_path.iterdir())


def test_options_of_boxes_are_the_engines(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr(engines, "read_config", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # nothing is refused
        export_to(["c.py", "c.pth"], tmp_path / "m.onnx", engine=dict(part="boxes", form="packed", size=(64, 64)))


def test_a_package_that_is_missing_is_said_before_the_work(tmp_path, monkeypatch):
    for package in ("onnx", "executorch.exir"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(engines, "read_config", lambda *args: pytest.fail("it was read"))
    for ending in ("onnx", "xml", "pte"):
        with pytest.raises(MissingPackageError):
            export_to(["config.py", "c.pth"], tmp_path / f"m.{ending}")


@pytest.mark.parametrize("value", ["abc", True, None, [0.7], float("nan"), float("inf")])
def test_a_metric_is_a_number(value):
    with pytest.raises(UserError, match="--metric top1=.* must be a finite number"):
        ExportOptions(metrics=dict(loss=1, top1=value))


@pytest.mark.slow
def test_the_tool_takes_a_packed_file(plain, tool, tmp_path, capsys):
    pytest.importorskip("onnx")
    tool("export")(plain, tmp_path / "m.onnx", "--form", "packed")
    assert "written to" in capsys.readouterr().out and (tmp_path / "m.onnx").exists()
    for arguments, message in (
        ([plain, tmp_path / "m"], "export: .*say what to write with --to"),
        ([plain, tmp_path / "m.onnx", "--fp16"], "is packed already"),
        ([plain, plain, plain, tmp_path / "m.onnx"], "and got 3 names"),
        ([plain, tmp_path / "m.onnx", "--size", "3", "4"], "--to onnx has no --size"),
        (["c.py", "c.pth", tmp_path / "m.rebnn", "--metric", "top1=abc"], "--metric top1='abc' must be a finite"),
    ):
        with pytest.raises(SystemExit, match=message):
            tool("export")(*arguments)


@pytest.mark.slow
def test_the_tool_takes_a_config_and_a_checkpoint(tool, tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("mmpretrain")
    from pathlib import Path

    from rebnn_mm.integrations.build import build_model, read_config

    path = Path(__file__).parents[3] / "configs" / "resnet18_rebnn_cifar10.py"
    options = {"model.backbone.base_channels": 8, "model.head.in_channels": 64}
    torch.save(dict(state_dict=build_model(read_config(path, options)).state_dict()), tmp_path / "c.pth")
    words = [f"{key}={value}" for key, value in options.items()]
    tool("export")(path, tmp_path / "c.pth", tmp_path / "c.onnx", "--cfg-options", *words)
    assert "same bits on 2 inputs" in capsys.readouterr().out
    assert (tmp_path / "c.onnx").exists() and not (tmp_path / "c.rebnn").exists()
