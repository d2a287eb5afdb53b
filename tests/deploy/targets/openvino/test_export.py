"""Networks in OpenVINO, against the packed ones."""

import errno
import json
import os
import sys

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnx", reason="optional: pip install rebnn_mm[openvino]")
openvino = pytest.importorskip("openvino", reason="optional: pip install rebnn_mm[openvino]")

from graph_toys import TwoParts, settle  # noqa: E402
from onnx_toys import Linears, ShortcutLast, Units  # noqa: E402

from rebnn_mm.backbones.blocks import Around, BinaryUnit  # noqa: E402
from rebnn_mm.convert import binarize  # noqa: E402
from rebnn_mm.deploy import ModelCard, Preprocessing, export_model, load_model  # noqa: E402
from rebnn_mm.deploy.graph.parts import Part  # noqa: E402
from rebnn_mm.deploy.load import load_parts  # noqa: E402
from rebnn_mm.deploy.targets.openvino import export_openvino  # noqa: E402
from rebnn_mm.deploy.targets.openvino.core import compile_model, core  # noqa: E402
from rebnn_mm.deploy.targets.openvino.export import to_openvino  # noqa: E402
from rebnn_mm.deploy.targets.openvino.signs import turned_signs  # noqa: E402
from rebnn_mm.errors import MissingFileError, MissingPackageError, UserError, UserFileError  # noqa: E402
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear  # noqa: E402

pytestmark = pytest.mark.usefixtures("threads")


def run(path, *inputs):
    """Outputs of an .xml file."""
    compiled = compile_model(path)
    results = compiled([x.numpy() for x in inputs])
    return [torch.from_numpy(np.array(results[port])) for port in compiled.outputs]


def packed(model, tmp_path, x, name="m"):
    export_model(settle(model), tmp_path / f"{name}.rebnn", parts=[Part("", [x], whole="network")])
    return load_model(tmp_path / f"{name}.rebnn")


def rows():
    return nn.Sequential(ReBNNLinear(16, 24), nn.PReLU(24), ReBNNLinear(24, 8, input_norm=True))


# network, inputs, 1-bit layers, those on bits: not where there are groups, or channels that do not fill bytes
TOYS = {
    "units": (Units, torch.randn(2, 8, 12, 14), 8, 5),
    "shortcut last": (ShortcutLast, torch.randn(2, 8, 9, 7), 1, 1),
    "odd rows": (Linears, torch.randn(3, 9), 3, 0),
    "rows": (rows, torch.randn(3, 16), 2, 2),
    "odd": (lambda: ReBNNConv2d(3, 5, 3, padding=1), torch.randn(2, 3, 6, 6), 1, 0),
    "even": (lambda: ReBNNConv2d(24, 5, (3, 5), padding=2, stride=2), torch.randn(2, 24, 9, 8), 1, 1),
}


@pytest.mark.parametrize("name", TOYS)
def test_every_step_of_a_unit(name, tmp_path):
    make, x, units, on_bits = TOYS[name]
    network = packed(make(), tmp_path, x)
    size = dict(size=x.shape[2:]) if x.dim() == 4 else {}
    report = export_openvino(tmp_path / "m.rebnn", tmp_path / "m.xml", **size)
    torch.testing.assert_close(run(tmp_path / "m.xml", x[:1]), [network(x[:1])], rtol=1e-4, atol=1e-4)
    assert len(report.on_bits) == on_bits, str(report)
    assert f"{on_bits} of {report.units} 1-bit layers are computed on bits" in str(report)
    assert report.units == units


@pytest.mark.parametrize("act", ["none", "prelu", "rprelu"])
def test_signs_that_another_part_takes(act, tmp_path):
    """Of a detector's backbone the last map goes into the neck's sign alone, which OpenVINO then takes in its loop."""
    torch.manual_seed(0)
    unit = BinaryUnit(16, 16, 3, 1, dict(type="ReBNNConv2d"), dict(type="BN"), Around(act))

    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit = unit

        def forward(self, x):
            return self.unit(x, x)

    x = torch.randn(1, 16, 10, 10)
    parts = [packed(Unit(), tmp_path, x, "first"), packed(ReBNNConv2d(16, 8, 1), tmp_path, x, "second")]
    model = to_openvino(parts, [list(x.shape)])
    compiled = compile_model(model)
    found = torch.from_numpy(np.array(compiled([x.numpy()])[compiled.outputs[0]]))
    torch.testing.assert_close(found, parts[1](parts[0](x)), rtol=1e-4, atol=1e-4)
    assert turned_signs(parts, model, [x]).turned == 0


def test_signs_that_turn_are_counted(plain, monkeypatch):
    """A shift that OpenVINO does not get turns those signs that it alone decides."""
    network = load_model(plain)
    x = torch.randn(1, 3, 12, 12)
    model = to_openvino(network, [x.shape])
    assert str(turned_signs(network, model, [x])) == "0 of 800 signs turned"
    from rebnn_mm.deploy.targets.openvino import units

    monkeypatch.setattr(units, "sign_thresholds", lambda side, n: (torch.full((n,), 3e38), torch.zeros(n) > 0))
    signs = turned_signs(network, to_openvino(network, [x.shape]), [x])
    assert signs.total == 800 and 200 < signs.turned < 700


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121", "vit"])
def test_stock_networks(name, tmp_path):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    if name == "vit":
        model = models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5)
        nn.init.normal_(model.heads.head.weight)
    else:
        model = getattr(models, name)(num_classes=5)
    binarize(model)
    x = torch.randn(2, 3, *((32, 32) if name == "vit" else (64, 64)))
    packed(model, tmp_path, x)
    report = export_openvino(tmp_path / "m.rebnn", tmp_path / "m.xml", size=x.shape[2:])
    assert len(report.on_bits) == report.units > 10
    assert report.comparison.signs.total > 1000
    assert report.comparison.mean < 1e-3 or report.comparison.signs.turned


@pytest.mark.slow
def test_bert(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=40, attn_implementation="eager", **sizes)
    model = transformers.BertForSequenceClassification(config)
    binarize(model, input_norm=False)
    tokens, mask = torch.randint(0, 50, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    part = Part("", [tokens, mask, 0 * mask], lambda net, *inputs: net(*inputs).logits, whole="network")
    export_model(model.eval(), tmp_path / "m.rebnn", parts=[part])
    report = export_openvino(tmp_path / "m.rebnn", tmp_path / "m.xml", length=16)
    assert len(report.on_bits) == report.units == 12
    inputs = torch.randint(0, 50, (1, 16)), (torch.arange(16) < 11).long()[None], torch.zeros(1, 16, dtype=torch.int64)
    torch.testing.assert_close(
        run(tmp_path / "m.xml", *inputs), [load_model(tmp_path / "m.rebnn")(*inputs)], rtol=1e-4, atol=1e-5
    )


def test_zero_gives_plus_one_and_padding_nothing(tmp_path):
    x = torch.zeros(1, 16, 5, 5)
    x[:, ::2] = -0.0
    network = packed(
        nn.Sequential(ReBNNConv2d(16, 8, 3, padding=1, input_norm=False)), tmp_path, x.expand(2, -1, -1, -1)
    )
    export_openvino(tmp_path / "m.rebnn", tmp_path / "m.xml", size=(5, 5))
    torch.testing.assert_close(run(tmp_path / "m.xml", x), [network(x)], rtol=1e-6, atol=1e-6)


CARD = ModelCard(
    preprocessing=Preprocessing((120.0, 110.0, 100.0), (60.0, 50.0, 55.0), "bgr", (64, 64)), classes=("a", "b", "c")
)


@pytest.mark.slow
def test_a_classifier_with_its_preprocessing(classifier, tmp_path):
    export_model(classifier(classes=3, depth=18), tmp_path / "m.rebnn", CARD)
    report = export_openvino(tmp_path / "m.rebnn", tmp_path / "m.xml")
    assert len(report.on_bits) == report.units == 16
    assert all(p.implementation.startswith("jit") and p.implementation.endswith("u1") for p in report.on_bits)
    assert "layer1.0" in report.on_bits[0].name and report.comparison.same_decision in (True, False)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64)).astype(np.float32))
    (scores,) = run(tmp_path / "m.xml", images)
    assert (scores - load_model(tmp_path / "m.rebnn")(images)).abs().mean() < 0.01
    model = core().read_model(tmp_path / "m.xml")
    assert json.loads(model.get_rt_info("classes").astype(str)) == ["a", "b", "c"]
    assert [port.get_any_name() for port in (*model.inputs, *model.outputs)] == ["images", "scores"]
    # one bit a weight in the file
    assert (tmp_path / "m.bin").stat().st_size < 1.1 * (tmp_path / "m.rebnn").stat().st_size + 40_000


def test_the_dense_part_of_a_detector(tmp_path):
    file, out = tmp_path / "m.rebnn", tmp_path / "m.xml"
    export_model(settle(TwoParts()), file, parts=TwoParts.parts())
    x, graphs = torch.randn(1, 3, 24, 30), load_parts(file)
    features = graphs["backbone"](x)
    report = export_openvino(file, out, size=(24, 30))
    torch.testing.assert_close(run(out, x), [graphs["neck"](features)], rtol=1e-4, atol=1e-4)
    assert len(report.on_bits) == report.units == 2
    export_openvino(file, out, part="backbone", size=(24, 30))
    torch.testing.assert_close(run(out, x), [features], rtol=1e-4, atol=1e-4)


@pytest.fixture
def plain(tmp_path):
    packed(nn.Sequential(nn.Conv2d(3, 8, 3), ReBNNConv2d(8, 8, 3)), tmp_path, torch.randn(2, 3, 12, 12), "plain")
    return tmp_path / "plain.rebnn"


def test_what_cannot_be_exported_is_said(plain, tmp_path, monkeypatch):
    out = tmp_path / "m.xml"
    with pytest.raises(UserError, match="end in .xml"):
        export_openvino(plain, tmp_path / "m.bin")
    with pytest.raises(UserError, match=r"any size and its file names none: give the images' size: size=\(H, W\)"):
        export_openvino(plain, out)
    with pytest.raises(UserError, match="an input of size"):
        export_openvino(plain, out, size=(2, 2))
    with pytest.raises(MissingFileError):
        export_openvino(tmp_path / "none.rebnn", out)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"the package openvino: pip install rebnn_mm\[openvino\]"):
        export_openvino(plain, out, size=(12, 12))
    assert not out.exists()


def test_results_that_differ_are_refused(plain, tmp_path, monkeypatch):
    from rebnn_mm.deploy.targets.openvino import units

    monkeypatch.setattr(units, "from_bits", lambda packed, shape: torch.ones(shape))
    with pytest.raises(UserError, match="OpenVINO's results are others than torch's.*nothing was written"):
        export_openvino(plain, tmp_path / "m.xml", size=(12, 12))
    assert not (tmp_path / "m.xml").exists()


def test_both_files_are_new_or_neither_is(plain, tmp_path, monkeypatch):
    out = tmp_path / "m.xml"
    export_openvino(plain, out, size=(12, 12))
    before = [out.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin")]
    written = []

    def full(descriptor):
        written.append(descriptor)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(UserFileError, match="What was there before is untouched"):
            export_openvino(plain, out, size=(14, 12))
    assert [out.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin")] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.xml", "plain.rebnn"]


@pytest.mark.slow
def test_the_tool(plain, tool, tmp_path, capsys):
    tool("export")(plain, tmp_path / "m.xml", "--size", "12", "14")
    printed = capsys.readouterr().out
    assert "1 of 1 1-bit layers are computed on bits" in printed and "written to" in printed
    assert core().read_model(tmp_path / "m.xml").inputs[0].shape == openvino.Shape([1, 3, 12, 14])
