"""Detectors as one network, from pixels to boxes, beside mmdet's own results."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("onnx", reason="optional: pip install rebnn_mm[onnx]")

from rebnn_mm.deploy.file.card import ModelCard  # noqa: E402
from rebnn_mm.deploy.file.container import read_file  # noqa: E402
from rebnn_mm.deploy.targets.openvino.core import compile_model  # noqa: E402
from rebnn_mm.integrations.build import build_model, read_config  # noqa: E402
from rebnn_mm.integrations.detection.dense_boxes import DenseBoxes  # noqa: E402
from rebnn_mm.integrations.detection.region_boxes import Proposals, RegionBoxes  # noqa: E402
from rebnn_mm.integrations.packed import load_packed_model  # noqa: E402
from rebnn_mm.integrations.samples import data_sample  # noqa: E402
from rebnn_mm.workflows import boxes_check  # noqa: E402
from rebnn_mm.workflows.boxes import export_boxes  # noqa: E402
from rebnn_mm.workflows.export import export_config  # noqa: E402

pytestmark = pytest.mark.usefixtures("threads")
CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = 128, 160  # the coarsest level has more than one pixel
NARROW = {
    "model.backbone.base_channels": 16,
    "model.neck.in_channels": [16, 32, 64, 128],
    "model.neck.out_channels": 32,
}
HEADS = dict(
    retinanet_rebnn_r18_coco={"model.bbox_head.in_channels": 32, "model.bbox_head.feat_channels": 32},
    fcos_rebnn_r18_coco={"model.bbox_head.in_channels": 32, "model.bbox_head.feat_channels": 32},
    rtmdet_rebnn_r18_bccd={
        "model.neck.in_channels": [32, 64, 128],
        "model.bbox_head.in_channels": 32,
        "model.bbox_head.feat_channels": 32,
        "model.bbox_head.act_cfg.num_parameters": 32,
        "model.test_cfg.score_thr": 0.0,
    },
)
TWO_STAGE = {
    "model.neck.out_channels": 32,
    "model.rpn_head.in_channels": 32,
    "model.rpn_head.feat_channels": 32,
    "model.roi_head.bbox_roi_extractor.out_channels": 32,
    "model.roi_head.bbox_head.in_channels": 32,
    "model.roi_head.bbox_head.fc_out_channels": 64,
}


def exported(name, folder, options=None):
    cfg = read_config(CONFIGS / f"{name}.py", {**NARROW, **HEADS.get(name, {}), **(options or {})})
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_model(cfg).state_dict()), folder / "d.pth")
    export_config(cfg, folder / "d.pth", folder / "d.rebnn", verify=False)
    return folder / "d.rebnn"


def by_mmdet(file, image):
    """(boxes, scores, labels) that mmdet finds in an RGB image (3, H, W)."""
    model = load_packed_model(file)
    sample = data_sample("mmdet", SIZE)
    data = model.data_preprocessor(dict(inputs=[image.flip(0)], data_samples=[sample]), False)
    with torch.no_grad():
        found = model(**data, mode="predict")[0].pred_instances
    return found.bboxes, found.scores, found.labels


def image_of(seed):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *SIZE)).astype(np.uint8))


def by_onnx(path, image):
    """(boxes, scores, labels) of an ONNX file."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(v.name, v.shape) for v in session.get_inputs()] == [("images", [1, 3, *SIZE])]
    assert [v.shape for v in session.get_outputs()] == [["K", 4], ["K"], ["K"]]
    found = session.run(["boxes", "scores", "labels"], {"images": image[None].float().numpy()})
    return tuple(map(torch.from_numpy, found))


def share_found(expected, boxes, scores, labels):
    """Share of expected boxes that are there: the same label, nearly the same place and score."""
    near = (expected[0][:, None] - boxes).abs().amax(-1) < 0.5
    near &= (expected[1][:, None] - scores).abs() < 0.01
    near &= expected[2][:, None] == labels
    return near.any(1).float().mean().item()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # mmdet's points
@pytest.mark.parametrize("name", HEADS)
def test_boxes_are_those_of_mmdet(name, tmp_path):
    pytest.importorskip("onnxruntime")
    file = exported(name, tmp_path)
    said = export_boxes(file, tmp_path / "d.onnx", "onnx", SIZE)
    assert said.startswith("onnxruntime finds") and "3 images of noise" in said
    image = image_of(0)
    boxes, scores, labels = by_onnx(tmp_path / "d.onnx", image)
    expected = by_mmdet(file, image)
    assert len(expected[0]) > 20 and boxes.shape == (len(scores), 4) and labels.dtype == torch.int64
    assert (scores.diff() <= 0).all() and abs(len(scores) - len(expected[1])) <= 5
    # of random weights scores lie close together, and a turned sign moves some
    assert share_found(expected, boxes, scores, labels) > 0.75
    if name.startswith("retinanet"):
        pytest.importorskip("openvino")
        report = export_boxes(file, tmp_path / "d.xml", "openvino", SIZE)
        assert len(report.on_bits) > 16
        compiled = compile_model(tmp_path / "d.xml")
        results = compiled([image[None].float().numpy()])
        found = [torch.from_numpy(np.array(results[name])) for name in ("boxes", "scores", "labels")]
        assert share_found(expected, *found) > 0.75


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("name", HEADS)
def test_candidates_are_exactly_those_of_mmdet(name, tmp_path):
    ops = pytest.importorskip("torchvision.ops")
    file = exported(name, tmp_path)
    card = ModelCard.from_plain(read_file(file).info)
    detector = DenseBoxes(load_packed_model(file), card.preprocessing, SIZE).eval()
    image = image_of(1)
    with torch.no_grad():
        boxes, apart, scores, labels = (x[0] for x in detector(image[None].float()))
    chosen = ops.nms(apart, scores, detector.iou_threshold)
    chosen = chosen[scores[chosen] > 0][: detector.max_boxes]
    for found, expected in zip((boxes, scores, labels), by_mmdet(file, image), strict=True):
        assert torch.equal(found[chosen], expected)


@pytest.mark.slow
@pytest.mark.parametrize("agnostic", [False, True])
def test_boxes_of_two_stages_are_those_of_mmdet(agnostic, tmp_path):
    pytest.importorskip("onnxruntime")
    # some regions for each of several levels, and boxes kept that overlap little
    options = {
        **TWO_STAGE,
        "model.roi_head.bbox_head.reg_class_agnostic": agnostic,
        "model.roi_head.bbox_roi_extractor.finest_scale": 14,
        "model.test_cfg.rcnn.score_thr": 0.01,
        "model.test_cfg.rpn.min_bbox_size": 2,
    }
    file = exported("faster_rcnn_rebnn_r18_bccd", tmp_path, options)
    said = export_boxes(file, tmp_path / "d.onnx", "onnx", SIZE)
    assert "of the packed detector's" in said
    image = image_of(0)
    found, expected = by_onnx(tmp_path / "d.onnx", image), by_mmdet(file, image)
    assert len(expected[0]) > 20 and abs(len(found[1]) - len(expected[1])) <= 5
    assert (found[1].diff() <= 0).all() and share_found(expected, *found) > 0.75


@pytest.mark.slow
def test_candidates_of_two_stages_are_those_of_mmdet(tmp_path):
    ops = pytest.importorskip("torchvision.ops")
    file = exported("faster_rcnn_rebnn_r18_bccd", tmp_path, TWO_STAGE)
    card = ModelCard.from_plain(read_file(file).info)
    model = load_packed_model(file)
    first, second = Proposals(model, card.preprocessing, SIZE).eval(), RegionBoxes(model, SIZE).eval()

    def best(part, boxes, apart, scores, *others):
        chosen = ops.nms(apart[0], scores[0], part.iou_threshold)
        chosen = chosen[scores[0][chosen] > 0][: part.max_boxes]
        return tuple(x[0][chosen] for x in (boxes, scores, *others))

    image = image_of(1)
    with torch.no_grad():
        boxes, apart, scores, *maps = first(image[None].float())
        regions, _ = best(first, boxes, apart, scores)
        read = model.roi_head.bbox_roi_extractor(tuple(maps), torch.cat([torch.zeros(len(regions), 1), regions], 1))
        found = best(second, *second(read, regions))
    expected = by_mmdet(file, image)
    assert len(expected[0]) > 20
    for ours, theirs in zip(found, expected, strict=True):  # one of two that overlap and score alike may be the other
        assert ((ours - theirs).abs() < 1e-3).float().mean() > 0.98


def test_other_boxes_are_no_file(monkeypatch):
    pytest.importorskip("onnxruntime")
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    wrong = boxes[0] + 15, boxes[1], boxes[2]

    class Session:
        def __init__(self, *_, **__): ...

        def run(self, *_):
            return [x.numpy() for x in given]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr(boxes_check, "boxes_of", lambda detector, image: boxes)
    given = boxes[0] + torch.tensor([0.1, 0, 3, 0]), boxes[1], boxes[2]
    assert "finds 0 of the packed detector's 6 boxes" in boxes_check.check_boxes(b"", None, (1, 3, 8, 8))
    given = wrong
    with pytest.raises(ValueError, match="more than turned signs explain; no file was written"):
        boxes_check.check_boxes(b"", None, (1, 3, 8, 8))
    given = tuple(x[:0] for x in boxes)
    with pytest.raises(ValueError, match="finds 0 of .* 6 boxes"):
        boxes_check.check_boxes(b"", None, (1, 3, 8, 8))
    for few in ((boxes[0], boxes[1] / 10, boxes[2]), given):  # weak ones, and none
        monkeypatch.setattr(boxes_check, "boxes_of", lambda detector, image, few=few: few)
        assert "this decides nothing" in boxes_check.check_boxes(b"", None, (1, 3, 8, 8))


@pytest.mark.slow
def test_what_has_no_boxes_is_said(tmp_path, tool):
    file = exported("faster_rcnn_rebnn_r18_demo", tmp_path, {"model.neck.out_channels": 96})
    with pytest.raises(ValueError, match="--part boxes of openvino is for one-stage detectors"):
        export_boxes(file, tmp_path / "d.xml", "openvino", SIZE)
    with pytest.raises(ValueError, match="images of one size: give --size H W, not None"):
        export_boxes(file, tmp_path / "d.onnx", "onnx", None)
    with pytest.raises(ValueError, match="onnx and openvino have non-maximum suppression, executorch has not"):
        export_boxes(file, tmp_path / "d.pte", "executorch", SIZE)
    with pytest.raises(SystemExit, match="--part boxes is for images of one size"):
        tool("export")(file, tmp_path / "d.onnx", "--part", "boxes")
    with pytest.raises(SystemExit, match="--part boxes of executorch takes --size H W"):
        tool("export")(file, tmp_path / "d.pte", "--part", "boxes", "--size", 64, 64, "--max-size", 64, 64)
    assert not (tmp_path / "d.onnx").exists()
