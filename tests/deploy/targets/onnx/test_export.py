"""Whole networks in ONNX, against the packed ones."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx", reason="optional: pip install rebnn_mm[onnx]")

from graph_toys import TwoParts, settle  # noqa: E402
from onnx_toys import Linears, Units, packed_operators  # noqa: E402

from rebnn_mm.convert import binarize  # noqa: E402
from rebnn_mm.deploy import ModelCard, Preprocessing, RebnnFileError, export_model, load_model  # noqa: E402
from rebnn_mm.deploy.graph.parts import Part  # noqa: E402
from rebnn_mm.deploy.load import load_parts  # noqa: E402
from rebnn_mm.deploy.targets.onnx import FORMS, export_onnx  # noqa: E402
from rebnn_mm.errors import MissingFileError, MissingPackageError, UserError  # noqa: E402
from rebnn_mm.layers import ReBNNConv2d  # noqa: E402

pytestmark = pytest.mark.usefixtures("threads")
CARD = ModelCard(preprocessing=Preprocessing((120.0, 110.0, 100.0), (60.0, 50.0, 55.0), "bgr"), classes=("a", "b", "c"))


@pytest.fixture(params=[dict(depth=18), dict(depth=50, base_channels=8), dict(depth=18, stem="cifar")], ids=str)
def file(request, classifier, tmp_path):
    export_model(classifier(classes=3, **request.param), tmp_path / "m.rebnn", CARD)
    return tmp_path / "m.rebnn"


@pytest.fixture
def plain(tmp_path):
    """A small file that is one graph, and no classifier."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), ReBNNConv2d(8, 8, 3), nn.ReLU())
    export_model(settle(model), tmp_path / "plain.rebnn")
    return tmp_path / "plain.rebnn"


def session(path, options=None):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def agree(found, expected):
    """Rounding may turn a sign here and there, so results are near."""
    assert found.shape == tuple(expected.shape) and found.dtype == np.float32
    expected = expected.numpy()
    assert np.abs(found - expected).mean() < 0.01 * max(np.abs(expected).mean(), 1e-3)


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


@pytest.mark.slow
def test_a_classifier_with_its_preprocessing(file, tmp_path):
    export_onnx(file, tmp_path / "m.onnx")
    ready = session(tmp_path / "m.onnx")
    assert json.loads(ready.get_modelmeta().custom_metadata_map["classes"]) == ["a", "b", "c"]
    assert [(v.name, v.shape) for v in ready.get_inputs()] == [("images", ["N", 3, "H", "W"])]
    assert [(v.name, v.shape[1]) for v in ready.get_outputs()] == [("scores", 3)]
    model = load_model(file)
    for shape in [(1, 3, 64, 64), (2, 3, 45, 71), (1, 3, 33, 32)]:
        images = pictures(*shape)
        agree(ready.run(["scores"], {"images": images})[0], model(torch.from_numpy(images)))


@pytest.mark.slow
def test_a_classifier_in_packed_operators(file, tmp_path):
    from onnx.reference import ReferenceEvaluator

    export_onnx(file, tmp_path / "m.onnx", form="packed")
    assert (tmp_path / "m.onnx").stat().st_size < 1.2 * file.stat().st_size + 40_000
    images = pictures(1, 3, 33, 40)
    evaluator = ReferenceEvaluator(str(tmp_path / "m.onnx"), new_ops=packed_operators())
    agree(evaluator.run(None, {"images": images})[0], load_model(file)(torch.from_numpy(images)))


@pytest.mark.slow
def test_weights_are_bits_in_the_file_and_unpacked_once(classifier, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    export_model(classifier(base_channels=32), tmp_path / "m.rebnn")
    export_onnx(tmp_path / "m.rebnn", tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 1.2 * (tmp_path / "m.rebnn").stat().st_size + 40_000
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session(tmp_path / "m.onnx", options)
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert not kinds & {"BitwiseAnd", "Slice", "Transpose"}
    assert "BitwiseAnd" in {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}


def stock(name):
    """(1-bit network of torchvision, image)."""
    models = pytest.importorskip("torchvision.models")
    if name == "vit":
        model = models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5)
        nn.init.normal_(model.heads.head.weight)
        binarize(model, input_norm=False)
        return model, torch.randn(2, 3, 32, 32)
    if name in ("swin", "swin_v2"):
        theirs = models.swin_transformer
        second = name == "swin_v2"
        block = theirs.SwinTransformerBlockV2 if second else theirs.SwinTransformerBlock
        merging = theirs.PatchMergingV2 if second else theirs.PatchMerging
        model = theirs.SwinTransformer(
            [4, 4], 32, [2, 2], [2, 4], [4, 4], num_classes=5, block=block, downsample_layer=merging
        )
        binarize(model, input_norm=False)
        return model, torch.randn(2, 3, 32, 32)
    model = getattr(models, name)(num_classes=5)
    binarize(model)
    return model, torch.randn(2, 3, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "vit", "swin", "swin_v2"])
def test_stock_networks(name, tmp_path):
    torch.manual_seed(0)
    model, x = stock(name)
    export_model(settle(model), tmp_path / "m.rebnn", parts=[Part("", [x], whole="network")])
    packed = load_model(tmp_path / "m.rebnn")
    for form in FORMS:
        export_onnx(tmp_path / "m.rebnn", tmp_path / f"{form}.onnx", form=form)
    ready = session(tmp_path / "float.onnx")
    attends = name in ("vit", "swin", "swin_v2")  # they keep the size of the image
    for other in [x, x[:1], torch.randn(3, 3, *((x.shape[2:]) if attends else (75, 90)))]:
        agree(ready.run(["output"], {"input": other.numpy()})[0], packed(other))
    [real] = session(tmp_path / "real.onnx").run(None, {"input": x.numpy()})
    assert real.shape == (2, 5)


@pytest.mark.slow
def test_bert_of_any_length(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=40, attn_implementation="eager", **sizes)
    model = transformers.BertForSequenceClassification(config)
    binarize(model, input_norm=False)

    def batch(n, length):
        mask = (torch.arange(length) < length - 3).long().expand(n, length).contiguous()
        return torch.randint(0, 50, (n, length)), mask, torch.zeros_like(mask)

    part = Part("", batch(2, 9), lambda net, *inputs: net(*inputs).logits, whole="network")
    export_model(settle(model), tmp_path / "m.rebnn", parts=[part])
    export_onnx(tmp_path / "m.rebnn", tmp_path / "m.onnx")
    ready, packed = session(tmp_path / "m.onnx"), load_model(tmp_path / "m.rebnn")
    assert [v.shape for v in ready.get_inputs()] == [["N", "L"]] * 3
    for inputs in (batch(2, 9), batch(1, 20)):
        named = {f"input_{index}": x.numpy() for index, x in enumerate(inputs)}
        agree(ready.run(["output"], named)[0], packed(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("level", ["1-1", "1-1-1"])
def test_the_bert_of_this_package(tmp_path, level):
    pytest.importorskip("transformers")
    from rebnn_mm.integrations.bert import NET_INPUTS, BertClassifier, token_noise

    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    net = BertClassifier("rte", sizes, dict(type="ReBNNLinear"), level).eval().net
    noise = token_noise(dict(bert=sizes), (9, 5))
    inputs = [noise[name] for name in NET_INPUTS]
    part = Part("", inputs, lambda net, *inputs: net(*inputs).logits, whole="network")
    export_model(net, tmp_path / "m.rebnn", parts=[part])
    for form in FORMS:
        export_onnx(tmp_path / "m.rebnn", tmp_path / f"{form}.onnx", form=form)
    named = {f"input_{index}": x.numpy() for index, x in enumerate(inputs)}
    # a row that is padded and one that is not, to the trained network's logits
    agree(session(tmp_path / "float.onnx").run(["output"], named)[0], net(*inputs).logits.detach())


@pytest.mark.slow
def test_a_backbone_gives_its_maps(tmp_path):
    from rebnn_mm.backbones import ReBNNResNet

    torch.manual_seed(0)
    net = settle(ReBNNResNet(18, base_channels=8, out_indices=(0, 3)))
    export_model(net, tmp_path / "m.rebnn")
    export_onnx(tmp_path / "m.rebnn", tmp_path / "m.onnx")
    x = torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        expected = net(x)
    maps = session(tmp_path / "m.onnx").run(["output_0", "output_1"], {"input": x.numpy()})
    for found, wanted in zip(maps, expected, strict=True):
        agree(found, wanted)


def test_a_part_of_a_detector(tmp_path):
    file, out = tmp_path / "m.rebnn", tmp_path / "m.onnx"
    export_model(settle(TwoParts()), file, parts=TwoParts.parts())
    with pytest.raises(UserError, match="no graph as a whole: name one of its parts, 'backbone' or 'neck'"):
        export_onnx(file, out)
    with pytest.raises(UserError, match=r"part='head' is no part of .*: one of \['backbone', 'neck'\]"):
        export_onnx(file, out, part="head")
    for part, channels in (("backbone", 3), ("neck", 8)):
        export_onnx(file, out, part=part)
        x = torch.randn(1, channels, 30, 25)
        agree(session(out).run(None, {"input": x.numpy()})[0], load_parts(file)[part](x))


def qonnx_form(model, tmp_path, *inputs):
    """(the file, results of the packed network) of a model in QONNX's form."""
    batch = [torch.cat([x, x]) for x in inputs]
    export_model(settle(model), tmp_path / "m.rebnn", parts=[Part("", batch, whole="network")])
    export_onnx(tmp_path / "m.rebnn", tmp_path / "m.onnx", form="qonnx")
    with torch.no_grad():
        return tmp_path / "m.onnx", load_model(tmp_path / "m.rebnn")(*inputs)


@pytest.mark.parametrize(("network", "shape"), [(Units, (2, 8, 9, 9)), (Linears, (3, 9))])
def test_signs_of_qonnx(network, shape, tmp_path):
    from onnx.reference import ReferenceEvaluator

    x = torch.randn(shape)
    path, expected = qonnx_form(network(), tmp_path, x)
    nodes = onnx.load(path).graph.node
    kinds = [node.op_type for node in nodes if node.domain]
    assert set(kinds) == {"BipolarQuant"} and not {"Where", "BitwiseAnd"} & {node.op_type for node in nodes}
    layers = sum(node.op_type in ("Conv", "MatMul") for node in nodes)
    assert len(kinds) == 2 * layers  # of each layer's input, and of its weight
    (found,) = ReferenceEvaluator(str(path), new_ops=packed_operators()).run(None, {"input": x.numpy()})
    agree(found, expected)


def test_the_executor_of_qonnx_agrees(tmp_path):
    pytest.importorskip("qonnx", reason="optional: pip install qonnx")
    from qonnx.core.datatype import DataType
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes

    x = torch.randn(1, 8, 9, 9)
    path, expected = qonnx_form(Units(), tmp_path, x)
    model = onnx.load(path)
    for side in (model.graph.input, model.graph.output):  # its executor takes one size
        for value, shape in zip(side, [x.shape if side is model.graph.input else expected.shape], strict=True):
            dims = value.type.tensor_type.shape.dim
            del dims[:]
            dims.extend(onnx.TensorShapeProto.Dimension(dim_value=n) for n in shape)
    wrapped = ModelWrapper(model).transform(InferShapes()).transform(InferDataTypes())
    agree(execute_onnx(wrapped, {"input": x.numpy()})[model.graph.output[0].name], expected)
    signs = [node.output[0] for node in wrapped.graph.node if node.op_type == "BipolarQuant"]
    assert {wrapped.get_tensor_datatype(name) for name in signs} == {DataType["BIPOLAR"]}


def test_what_cannot_be_exported_is_said(plain, tmp_path, monkeypatch):
    out = tmp_path / "m.onnx"
    with pytest.raises(UserError, match=r"form='int8': one of \('float', 'packed', 'qonnx', 'real'\)"):
        export_onnx(plain, out, form="int8")
    with pytest.raises(UserError, match="part='backbone' is no part of .* one whole graph: leave the part out"):
        export_onnx(plain, out, part="backbone")
    with pytest.raises(MissingFileError):
        export_onnx(tmp_path / "none.rebnn", out)
    export_model(settle(TwoParts()), tmp_path / "layers.rebnn", parts=[])
    with pytest.raises(RebnnFileError, match="holds no graph"):
        export_onnx(tmp_path / "layers.rebnn", out)
    export_model(nn.Sequential(ReBNNConv2d(3, 4, 3), nn.Unfold(3)), tmp_path / "unfold.rebnn")
    with pytest.raises(UserError, match="does not know the operator aten.im2col.default"):
        export_onnx(tmp_path / "unfold.rebnn", out)
    before = plain.read_bytes()
    with pytest.raises(UserError, match="is the file that is to be read"):
        export_onnx(plain, plain)
    assert plain.read_bytes() == before
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match="pip install onnx"):
        export_onnx(plain, out)
    assert not out.exists()


@pytest.mark.slow
def test_the_tool(plain, tool, tmp_path, capsys):
    tool("export_onnx")(plain, tmp_path / "m.onnx", "--form", "packed")
    assert "written to" in capsys.readouterr().out and (tmp_path / "m.onnx").exists()
    with pytest.raises(SystemExit, match="export_onnx: part='neck' is no part of"):
        tool("export_onnx")(plain, tmp_path / "m.onnx", "--part", "neck")
