import json

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="optional: pip install rebnn_mm[onnx]")

from rebnn_mm.deploy import ModelCard, Preprocessing, RebnnFileError, export_model, load_model  # noqa: E402
from rebnn_mm.deploy.layer import ConvSpec, Epilogue, InputSide  # noqa: E402
from rebnn_mm.deploy.onnx import DOMAIN, export_onnx  # noqa: E402
from rebnn_mm.deploy.ops import binary_conv2d  # noqa: E402
from rebnn_mm.layers import ReBNNConv2d  # noqa: E402

pytestmark = pytest.mark.usefixtures("threads")
CARD = ModelCard(preprocessing=Preprocessing((120.0, 110.0, 100.0), (60.0, 50.0, 55.0), "bgr"), classes=("a", "b", "c"))


@pytest.fixture(params=[dict(depth=18), dict(depth=50, base_channels=8), dict(depth=18, stem="cifar")], ids=str)
def file(request, classifier, tmp_path):
    export_model(classifier(classes=3, **request.param), tmp_path / "m.rebnn", CARD)
    return tmp_path / "m.rebnn"


def agree(found, model, images):
    """Rounding may turn a sign here and there, so scores are near, and the order of clear ones is kept."""
    expected = model(torch.from_numpy(images)).numpy()
    assert found.shape == expected.shape and np.abs(found - expected).max() < 0.02


def test_float_form_runs_in_onnxruntime(file, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    export_onnx(file, tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["a", "b", "c"]
    model = load_model(file)
    rng = np.random.default_rng(0)
    for shape in [(1, 3, 64, 64), (2, 3, 45, 71), (1, 3, 33, 32)]:
        images = rng.integers(0, 256, shape).astype(np.float32)
        agree(session.run(None, {"images": images})[0], model, images)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # onnx's runner hands them over
def test_packed_form_runs_with_the_documented_operator(file, tmp_path):
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class BinaryConv2d(OpRun):
        op_domain = DOMAIN

        def _run(self, x, packed, residual, *vectors, weight_shape, strides, pads, dilations, group):
            shift, alpha, scale, offset, *rprelu = map(torch.from_numpy, vectors)
            spec = ConvSpec.of(weight_shape, strides, pads[:2], dilations, group)
            after = Epilogue(alpha, None, (scale, offset), *rprelu)
            shortcut = torch.from_numpy(residual)
            y = binary_conv2d(torch.from_numpy(x), torch.from_numpy(packed), spec, InputSide(shift), after, shortcut)
            return (y.numpy(),)

    export_onnx(file, tmp_path / "m.onnx", form="packed")
    assert (tmp_path / "m.onnx").stat().st_size < 1.2 * file.stat().st_size + 40_000
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 33, 40)).astype(np.float32)
    [found] = ReferenceEvaluator(str(tmp_path / "m.onnx"), new_ops=[BinaryConv2d]).run(None, {"images": images})
    agree(found, load_model(file), images)


def test_backbone_gives_its_maps(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    from rebnn_mm.backbones import ReBNNResNet

    torch.manual_seed(0)
    net = ReBNNResNet(18, base_channels=8, out_indices=(0, 3)).eval()
    export_model(net, tmp_path / "m.rebnn")
    export_onnx(tmp_path / "m.rebnn", tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 3, 50, 70), dtype=np.float32)
    maps = session.run(["stage1", "stage4"], {"input": x})
    with torch.no_grad():
        expected = net(torch.from_numpy(x))
    assert [m.shape for m in maps] == [tuple(m.shape) for m in expected]
    assert np.abs(maps[0] - expected[0].numpy()).mean() < 0.01 * expected[0].abs().mean()


def test_what_has_no_graph_is_refused(file, tmp_path):
    with pytest.raises(ValueError, match="form='int8'"):
        export_onnx(file, tmp_path / "m.onnx", form="int8")
    export_model(torch.nn.Sequential(ReBNNConv2d(3, 4, 3)), tmp_path / "own.rebnn")
    with pytest.raises(RebnnFileError, match="no network record"):
        export_onnx(tmp_path / "own.rebnn", tmp_path / "m.onnx")
