"""Weights in 8 bits: rounding, files, exports, and what the report says of them."""

import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rebnn_mm.deploy import Check, RebnnFileError, export_model, load_model
from rebnn_mm.deploy.file.container import read_file, write_file
from rebnn_mm.deploy.file.tensors import BinaryTensor
from rebnn_mm.deploy.graph.functions import embedding_rows
from rebnn_mm.deploy.operation.int8 import LARGEST, QuantizedTensor, quantize
from rebnn_mm.errors import NotFiniteError, UserError
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear

FILES = Path(__file__).parent / "file" / "examples"
pytestmark = pytest.mark.usefixtures("threads")

SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=5)
NUMBERS = st.floats(-(2.0**127), 2.0**127, width=32) | st.sampled_from([0.0, -0.0, 1.0, 127.0, 1e-45, -1e-38, 3e-39])


@st.composite
def weights(draw):
    shape = draw(SHAPES)
    count = torch.Size(shape).numel()
    return torch.tensor(draw(st.lists(NUMBERS, min_size=count, max_size=count)), dtype=torch.float32).view(shape)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(weights())
def test_rounding_is_to_the_nearest_step_and_symmetric(weight):
    rounded = quantize(weight)
    per_row = rounded.scale.double().view(-1, *[1] * (weight.dim() - 1))
    assert (rounded.scale > 0).all() and rounded.scale.isfinite().all()
    assert rounded.values.abs().max() <= LARGEST
    # half a step, and what float32 rounds beside it
    assert ((rounded.values * per_row - weight.double()).abs() <= per_row * (0.5 + 1e-4)).all()
    assert torch.equal(quantize(-weight).values, -rounded.values)
    again = quantize(rounded.dequantize(), rounded.scale)
    assert torch.equal(again.values, rounded.values)
    assert torch.equal(quantize(-rounded.dequantize(), rounded.scale).dequantize(), -rounded.dequantize())


@settings(max_examples=60, deadline=None)
@given(weights(), st.booleans())
def test_a_file_gives_it_back(tmp_path_factory, weight, last):
    path = tmp_path_factory.mktemp("f") / "m.rebnn"
    rounded = quantize(weight)
    others = {"a": torch.arange(3), "b": torch.ones(2)}
    write_file(path, {}, {"w": rounded, **others} if last else {**others, "w": rounded})
    tensors = read_file(path).tensors
    found = tensors["w"]
    assert torch.equal(found.values, rounded.values) and torch.equal(found.scale, rounded.scale)
    assert torch.equal(found.dequantize(), rounded.dequantize()) and torch.equal(tensors["b"], torch.ones(2))


def test_bytes_are_as_documented(tmp_path):
    weight = QuantizedTensor(torch.tensor([[-127, 5, 0], [1, 2, 3]], dtype=torch.int8), torch.tensor([0.5, 0.25]))
    write_file(tmp_path / "m.rebnn", {}, {"w": weight})
    data = (tmp_path / "m.rebnn").read_bytes()
    assert struct.unpack("<ff6b", data[-14:]) == (0.5, 0.25, -127, 5, 0, 1, 2, 3)
    assert weight.dequantize().tolist() == [[-63.5, 2.5, 0.0], [0.25, 0.5, 0.75]]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), -0.0])
def test_a_scale_that_is_no_step_is_refused(tmp_path, scale):
    weight = QuantizedTensor(torch.ones(2, 3, dtype=torch.int8), torch.tensor([1.0, scale]))
    write_file(tmp_path / "m.rebnn", {}, {"w": weight})
    with pytest.raises(RebnnFileError, match="a scale of 'w' is not finite and above 0: export it again"):
        read_file(tmp_path / "m.rebnn")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path, bad):
    model = nn.Sequential(nn.Conv2d(3, 64, 3), ReBNNConv2d(64, 8, 3))
    model[0].weight.data[3, 1, 1, 1] = bad
    with pytest.raises(NotFiniteError, match="0.weight holds NaN or infinity"):
        export_model(model, tmp_path / "m.rebnn", int8=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (torch.ones(2, 3), torch.ones(2)),
        (torch.ones(2, 3, dtype=torch.int8), torch.ones(3)),
        (torch.ones(2, 3, dtype=torch.int8), torch.ones(2).double()),
        (torch.ones(2, dtype=torch.int8), torch.ones(2)),
    ],
)
def test_parts_that_do_not_fit_are_refused(values, scale):
    with pytest.raises(ValueError, match=r"values are int8 \(C, ...\)"):
        QuantizedTensor(values, scale)


@pytest.mark.slow
def test_an_export_states_its_change_and_equals_the_rounded_model(classifier, tmp_path):
    model = classifier()
    torch.manual_seed(0)  # the classifier may have been built for another test
    images = (torch.randn(2, 3, 64, 64), torch.randn(2, 3, 45, 71))
    full = export_model(model, tmp_path / "full.rebnn")
    report = export_model(model, tmp_path / "m.rebnn", check=Check(images), int8=True)
    tensors = read_file(tmp_path / "m.rebnn").tensors
    rounded = {name for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)}
    assert rounded == {"backbone.stem.0.weight", "head.fc.weight"} | {
        f"backbone.layer{i}.0.downsample.1.weight"
        for i in (3, 4)  # layer2's has 512 values: too few
    }
    before = read_file(tmp_path / "full.rebnn").tensors
    for name, tensor in before.items():  # nothing else has changed: alpha, shifts, norms, biases
        if name not in rounded and not isinstance(tensor, BinaryTensor):
            assert torch.equal(tensor, tensors[name]), name
    assert report.size < full.size - 2 * report.int8["bytes_before"] / 3
    assert read_file(tmp_path / "m.rebnn").info["int8"] == report.int8 and report.float16 is None
    assert 1e-4 < report.int8["weights"] < 1 / 127 and 0 < report.int8["outputs"] < 0.5
    assert report.int8["decisions"] == 4 and report.int8["layers"] == 4
    text = str(report)
    assert "int8: 4 real-valued layers and embeddings take" in text and "of 4 decisions" in text
    assert "trained model with these rounded weights gave the same bits on 2 inputs" in text
    assert "head.fc                         int8" in text
    with torch.no_grad():
        for name in rounded:
            model.get_parameter(name).copy_(quantize(model.get_parameter(name)).dequantize())
        expected = model(images[1])
    assert torch.equal(load_model(tmp_path / "m.rebnn").logits(images[1]), expected)


def test_what_cannot_go_together_is_refused(classifier, tmp_path):
    check = Check([torch.randn(2, 3, 64, 64)], exact=True)
    with pytest.raises(UserError, match=r"\(--exact\) demands the trained model's bits, and int8 \(--int8\) rounds"):
        export_model(classifier(), tmp_path / "m.rebnn", check=check, int8=True)
    with pytest.raises(UserError, match="two ways to store the same weights"):
        export_model(classifier(), tmp_path / "m.rebnn", float16=True, int8=True)


class Words(nn.Module):
    """Embeddings, one of them tied to the output layer, attention, and a table that is too small to round."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(100, 64, padding_idx=0), nn.Embedding(40, 64)
        self.kinds = nn.Embedding(2, 64)
        self.attend = nn.MultiheadAttention(64, 4, batch_first=True)
        self.fc, self.out = ReBNNLinear(64, 64), nn.Linear(64, 100, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.words(tokens) + self.places(places) + self.kinds(tokens % 2)
        return self.out(self.fc(x) + self.attend(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("parts", [None, []])
def test_embeddings_attention_and_tied_weights(tmp_path, parts):
    torch.manual_seed(0)
    model, tokens = Words().eval(), torch.randint(0, 100, (3, 11))
    report = export_model(model, tmp_path / "m.rebnn", check=Check([tokens]), int8=True, parts=parts)
    file = read_file(tmp_path / "m.rebnn")
    rounded = {name for name, tensor in file.tensors.items() if isinstance(tensor, QuantizedTensor)}
    assert len(rounded) == 4 and {"places.weight", "attend.in_proj_weight", "attend.out_proj.weight"} < rounded
    assert file.tensors["kinds.weight"].dtype == torch.float32
    assert report.int8["bytes_before"] == 4 * 64 * (100 + 40 + 192 + 64)
    packed = load_model(tmp_path / "m.rebnn", model=None if parts is None else Words())
    with torch.no_grad():
        for name, table in (("words", model.words), ("places", model.places)):
            stored = file.tensors.get(f"{name}.weight") or file.tensors["out.weight"]
            table.weight.copy_(stored.dequantize())
        for name in ("attend.in_proj_weight", "attend.out_proj.weight"):
            model.get_parameter(name).copy_(file.tensors[name].dequantize())
        torch.testing.assert_close(packed(tokens), model(tokens), rtol=1e-5, atol=1e-5)
    if parts is None:
        targets = [node.target for node in packed.arranged().graph.nodes]
        assert targets.count(embedding_rows) == 1  # places; the words are an output layer's weight, too
        assert packed.state_dict() and any(tensor.dtype == torch.int8 for tensor in packed.state_dict().values())


def test_rows_of_a_table_are_those_of_its_floats():
    weight = quantize(torch.randn(50, 16))
    indices = torch.randint(0, 50, (2, 3, 4))
    expected = nn.functional.embedding(indices, weight.dequantize())
    assert torch.equal(embedding_rows(weight.values, weight.scale, indices), expected)


def test_a_changed_scale_takes_effect_at_the_next_call(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(ReBNNConv2d(3, 64, 3), nn.Flatten(), nn.Linear(64 * 4, 10))
    x = torch.randn(2, 3, 4, 4)
    export_model(model.eval(), tmp_path / "m.rebnn", check=Check([x]), int8=True)
    packed = load_model(tmp_path / "m.rebnn")
    before = packed(x)
    packed.get_buffer(f"tensor_{packed.tensor_names.index('2.weight:scale')}").mul_(2)
    bias = model[2].bias
    torch.testing.assert_close(packed(x) - bias, 2 * (before - bias), rtol=1e-4, atol=1e-5)


def test_files_of_before_still_load():
    """Written at commit a9c9e87: version 2 without weights in 8 bits."""
    x = torch.linspace(0, 255, 3 * 16 * 16).view(1, 3, 16, 16)
    model = load_model(FILES / "classifier.rebnn")
    expected = torch.tensor([[0.3665866, -0.3149349, 0.0549479, 0.2070795]])
    torch.testing.assert_close(model.logits(model.normalize(x)), expected, rtol=1e-4, atol=1e-5)
    expected = torch.tensor([[0.1745883, 0.4570744, 0.3060920]])
    found = load_model(FILES / "tokens_float16.rebnn")(torch.arange(5)[None] * 9)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_gets_the_float_weights(classifier, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from rebnn_mm.deploy.targets.onnx import export_onnx

    x = torch.randn(2, 3, 64, 64)
    export_model(classifier(), tmp_path / "m.rebnn", check=Check([x]), int8=True)
    export_onnx(tmp_path / "m.rebnn", tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), load_model(tmp_path / "m.rebnn")(x), rtol=1e-3, atol=1e-4)
