"""get_flops, infer and browse_dataset on tiny models, bad input included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_models import make_image_models, picture
from mmengine.registry import init_default_scope
from PIL import Image

pytest.importorskip("mmdet")
pytest.importorskip("mmpretrain")

from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.integrations.checkpoint import load_weights
from rebnn_mm.workflows.inspection import DrawTruth

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_image_models(tmp_path_factory.mktemp("inspect"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "shape"), [("detector", "64 x 96"), ("classifier", "32 x 32")])
def test_get_flops_prints_table_and_totals(tool, data, capsys, kind, shape):
    tool("get_flops")(data / f"{kind}.py")
    out = capsys.readouterr().out
    assert "backbone.layer1.0.unit.conv" in out and "1-bit layers (W1A1): 16 of" in out
    assert f"one image of {shape}" in out
    assert "OPs = FLOPs + BOPs / 64" in out


def test_get_flops_counts_two_stage_heads_for_all_proposals(tool, data, tmp_path, capsys):
    text = """
_base_ = ['BASE']
model = dict(_delete_=True, type='FasterRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ReBNNResNet', depth=18, base_channels=8, out_indices=(2, 3)),
    neck=dict(type='FPN', in_channels=[32, 64], out_channels=8, num_outs=2),
    rpn_head=dict(type='RPNHead', in_channels=8, feat_channels=8,
        anchor_generator=dict(type='AnchorGenerator', scales=[2.0], ratios=[1.0], strides=[16, 32])),
    roi_head=dict(type='StandardRoIHead',
        bbox_roi_extractor=dict(type='SingleRoIExtractor', out_channels=8, featmap_strides=[16, 32],
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=8, fc_out_channels=16, num_classes=2)),
    train_cfg=None,
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=10, nms=dict(type='nms', iou_threshold=0.1), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5)))
"""
    config = tmp_path / "two_stage.py"
    config.write_text(text.replace("BASE", str(data / "detector.py")))
    tool("get_flops")(config, "--shape", 64, 96)
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("roi_head.bbox_head.shared_fcs.0"))
    assert f"{10 * 8 * 49 * 16:,}" in row.split()
    rpn = next(line for line in out.splitlines() if line.startswith("rpn_head.rpn_conv"))
    assert f"{8 * 8 * 9 * (4 * 6 + 2 * 3):,}" in rpn.split()
    assert "max_per_img = 10 proposals" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("missing.py",), "config missing.py is not a file"),
        (("detector.py", "--shape", 0, 32), "height and width are positive"),
        (("broken.py",), "cannot be read"),
        (("other.py",), "default_scope='mmseg', allowed are mmdet, mmpretrain"),
        (("bare.py",), "no model"),
    ],
)
def test_get_flops_refuses_with_a_sentence(tool, data, monkeypatch, argv, message):
    monkeypatch.chdir(data)
    Path("broken.py").write_text("model = dict(")
    Path("other.py").write_text("default_scope = 'mmseg'\nmodel = dict()")
    Path("bare.py").write_text("default_scope = 'mmdet'")
    with pytest.raises(SystemExit, match=message):
        tool("get_flops")(*argv)


def test_infer_draws_boxes_with_the_checkpoints_classes(tool, data, tmp_path, monkeypatch):
    from mmdet.visualization import DetLocalVisualizer

    seen = []
    draw = DetLocalVisualizer._draw_instances
    monkeypatch.setattr(DetLocalVisualizer, "_draw_instances", lambda *args: seen.append(args) or draw(*args))
    source = data / "VOCdevkit" / "VOC2007" / "JPEGImages"
    tool("infer")(source, data / "detector.py", data / "detector.pth", "--out", tmp_path, "--score-thr", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001.jpg", "000002.jpg"]
    _, image, instances, classes, palette = seen[0]
    assert classes == ("apple", "pear") and palette == [(0, 255, 0), (0, 0, 255)]
    assert image.shape == (32, 48, 3) and len(instances) > 0
    # boxes are in the coordinates of the original image, not of the resized one
    assert instances.bboxes[:, 2].max() <= 48 and instances.bboxes[:, 3].max() <= 32


@pytest.mark.slow
def test_infer_labels_with_a_classifier(tool, data, tmp_path, monkeypatch):
    from mmpretrain.visualization import UniversalVisualizer

    texts = []
    draw = UniversalVisualizer.visualize_cls
    monkeypatch.setattr(
        UniversalVisualizer,
        "visualize_cls",
        lambda self, *args, **kwargs: texts.append(self.dataset_meta["classes"]) or draw(self, *args, **kwargs),
    )
    tool("infer")(data / "folders", data / "classifier.py", data / "classifier.pth", "--out", tmp_path)
    assert Image.open(tmp_path / "cat" / "a.png").size == (224, 224)  # 32 px leave no room for a text
    assert (tmp_path / "dog" / "a.png").is_file() and texts == [("apple", "pear")] * 2


@pytest.mark.slow
def test_the_inferencer_sees_what_the_test_loader_gives(data):
    """Same image through the test data set and through the inferencer: same scores."""
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS

    from rebnn_mm.workflows.inference import Inferencer

    cfg = read_config(data / "detector.py")
    inferencer = Inferencer(cfg, data / "detector.pth", "cpu")
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    with torch.no_grad():
        (expected,) = inferencer.model.test_step(pseudo_collate([dataset[0]]))
    got = inferencer.predict(dataset[0]["data_samples"].img_path)
    assert torch.equal(got.pred_instances.bboxes, expected.pred_instances.bboxes)
    assert torch.equal(got.pred_instances.scores, expected.pred_instances.scores)


def test_build_model_takes_the_preprocessor_from_the_top_as_the_runner_does(data):
    cfg = read_config(data / "classifier.py")
    preprocessor = build_model(cfg).data_preprocessor
    assert preprocessor.to_rgb and preprocessor.mean.flatten().tolist() == [127, 127, 127]
    assert "data_preprocessor" not in cfg.model


def test_infer_goes_on_past_bad_images_and_lists_them(tool, data, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    good = picture(source / "good.jpg")
    (source / "cut.jpg").write_bytes(good.read_bytes()[:-200])
    (source / "text.png").write_text("no image")
    (source / "notes.txt").write_text("not looked at")
    with pytest.raises(SystemExit, match=r"2 of 3 images were skipped:\n.*cut.jpg: .*\n.*text.png: cannot be dec"):
        tool("infer")(source, data / "detector.py", data / "detector.pth", "--out", out)
    assert [path.name for path in out.iterdir()] == ["good.jpg"]


def test_infer_goes_on_past_faults_and_stops_at_the_disk(data, tmp_path, monkeypatch, capsys):
    from rebnn_mm.errors import UserFileError
    from rebnn_mm.workflows.inference import infer

    class Inferencer:
        def draw(self, source, file):
            if source.name in wrong:
                raise wrong[source.name]

    pairs = [(Path(f"{name}.jpg"), Path("out", f"{name}.jpg")) for name in "abcd"]
    wrong = {"a.jpg": RuntimeError("odd size"), "b.jpg": RuntimeError("again"), "d.jpg": ValueError()}
    report = infer(Inferencer(), pairs)
    assert [file.name for file in report.written] == ["c.jpg"]
    assert [reason for _, reason in report.failed] == ["RuntimeError: odd size", "RuntimeError: again", "ValueError: "]
    assert capsys.readouterr().err.count("Traceback") == 1
    wrong = {"b.jpg": UserFileError("the disk is full")}
    with pytest.raises(UserFileError, match="the disk is full"):
        infer(Inferencer(), pairs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_infer_takes_pictures_of_extreme_proportions(tool, data, tmp_path, kind):
    source = tmp_path / "in"
    source.mkdir()
    for width, height in ((3000, 1), (1, 3000), (40, 30)):
        Image.new("RGB", (width, height), (9, 99, 200)).save(source / f"{width}.png")
    if kind == "classifier":
        tool("infer")(source, data / f"{kind}.py", data / f"{kind}.pth", "--out", tmp_path / "out")
        return
    # nothing of a side is left when the pipeline has shrunk the other one
    with pytest.raises(
        SystemExit, match=r"2 of 3 images were skipped:\n.*Resize of .* fails on an image of 1 x 3000 pixels"
    ):
        tool("infer")(source, data / f"{kind}.py", data / f"{kind}.pth", "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["40.png"]


def test_images_are_found_whatever_the_folder_of_the_pictures(data, tmp_path):
    from rebnn_mm.errors import UserError
    from rebnn_mm.workflows.inference import find_images

    source, other = tmp_path / "in", tmp_path / "other"
    picture(source / "a.jpg"), picture(source / "out" / "a.jpg"), picture(other / "b.jpg")
    (source / "._a.jpg").write_bytes(b"what macOS leaves on a foreign disk")
    (source / "link").symlink_to(other)
    names = {"a.jpg", "link/b.jpg", "out/a.jpg"}
    for out in (tmp_path, tmp_path / "elsewhere"):
        found = find_images(source, out)
        assert {str(image.relative_to(source)) for image, _ in found} == names
        assert {str(file.relative_to(out)) for _, file in found} == names
    # results of an earlier run
    assert {image.name for image, _ in find_images(source, source / "out")} == {"a.jpg", "b.jpg"}
    (source / "results").symlink_to(tmp_path / "elsewhere")
    picture(tmp_path / "elsewhere" / "old.jpg")
    assert "old.jpg" not in {image.name for image, _ in find_images(source, tmp_path / "elsewhere")}
    picture(source / "in" / "a.jpg")
    with pytest.raises(UserError, match="would replace the image .*a.jpg: give another folder"):
        find_images(source, tmp_path)  # the picture of in/in/a.jpg would be in/a.jpg
    with pytest.raises(UserError, match="is the images' own folder"):
        find_images(source, source)


@pytest.mark.slow
def test_infer_refuses_with_a_sentence(tool, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, empty = picture(tmp_path / "in" / "a.jpg"), tmp_path / "empty"
    empty.mkdir()
    config, weights, out = data / "detector.py", data / "detector.pth", tmp_path / "out"
    cut = tmp_path / "cut.pth"
    cut.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    cases = [
        (("nowhere.jpg", config, weights), "nowhere.jpg does not exist"),
        ((empty, config, weights), "holds no image"),
        ((image, "nowhere.py", weights), "config nowhere.py is not a file"),
        ((image, config, "nowhere.pth"), "checkpoint nowhere.pth is not a file"),
        ((image, config, cut), "cut.pth is truncated or damaged"),
        ((image, config, data / "classifier.pth"), "does not fit the config's model"),
        ((image, config, weights, "--score-thr", 2), "score threshold 2.0: give a share"),
        ((image, config, weights, "--device", "toaster"), "device 'toaster' cannot be used"),
    ]
    for argv, message in cases:
        with pytest.raises(SystemExit, match=message):
            tool("infer")(*argv, "--out", out)
        assert not out.exists()
    with pytest.raises(SystemExit, match="the picture of .*a.jpg would replace the image .*a.jpg: give another folder"):
        tool("infer")(image, config, weights, "--out", image.parent)


class Malice:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_load_weights_runs_no_code_and_names_foreign_files(tmp_path):
    file, mark = tmp_path / "bad.pth", tmp_path / "ran"
    torch.save(dict(state_dict={}, extra=Malice(mark)), file)
    with pytest.raises(ValueError, match="would run code"):
        load_weights(file)
    assert not mark.exists()
    file.write_bytes(b"\x89PNG not a checkpoint")
    with pytest.raises(ValueError, match="no PyTorch checkpoint"):
        load_weights(file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="truncated"):
        load_weights(file)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match="holds a list"):
        load_weights(file)
    torch.save(dict(epoch=3), file)
    with pytest.raises(ValueError, match="no state_dict, it holds: epoch"):
        load_weights(file)
    torch.save(dict(weight=torch.ones(2)), file)
    assert load_weights(file)["state_dict"]["weight"].tolist() == [1, 1]


@pytest.mark.slow
def test_browse_writes_detection_truth_after_the_pipeline(tool, data, tmp_path):
    tool("browse_dataset")(data / "detector.py", "--out", tmp_path, "--number", 1)
    (file,) = tmp_path.iterdir()
    assert file.name == "00000_000001.png"
    assert Image.open(file).size == (96, 64)  # resized by the pipeline
    red, _, blue = np.asarray(Image.open(file).convert("RGB"))[32, 40].astype(int)
    assert red > blue + 50  # the rectangle is red in the file: channels are not swapped


@pytest.mark.slow
def test_browse_writes_classification_truth(tool, data, tmp_path):
    tool("browse_dataset")(data / "classifier.py", "--out", tmp_path, "--split", "test")
    assert len(list(tmp_path.iterdir())) == 2


def test_colours_beyond_the_ends_of_a_float_image_are_drawn_as_the_ends(tmp_path):
    from mmpretrain.structures import DataSample

    init_default_scope("mmdet")  # another config was read before
    image = torch.tensor([300.0, 128.0, -20.0]).view(3, 1, 1).expand(3, 64, 64)  # BGR, as after colour jitter
    DrawTruth("mmpretrain", {"classes": ("a",)})(
        dict(inputs=image, data_samples=DataSample().set_gt_label(0)), tmp_path / "a.png"
    )
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))[60, 60] == pytest.approx((0, 128, 255), abs=1)


@pytest.mark.slow
def test_browse_refuses_with_a_sentence(tool, data, tmp_path):
    config = data / "detector.py"
    cases = [
        (("--split", "val"), "split 'val': the config has data for train, test"),
        (("--number", 0), "at least one picture"),
        (("--cfg-options", "train_dataloader.dataset.data_root=nowhere"), "train data not found"),
    ]
    for argv, message in cases:
        with pytest.raises(SystemExit, match=message):
            tool("browse_dataset")(config, "--out", tmp_path, *argv)
    voc = data / "VOCdevkit" / "VOC2007"
    (voc / "ImageSets" / "Main" / "none.txt").write_text("")
    with pytest.raises(SystemExit, match="the train split is empty"):
        option = "train_dataloader.dataset.ann_file=VOC2007/ImageSets/Main/none.txt"
        tool("browse_dataset")(config, "--out", tmp_path, "--cfg-options", option)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["get_flops", "infer", "browse_dataset", "train", "test", "make_demo_data"])
def test_help_as_a_process(name):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{name}.py"), "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "usage" in done.stdout
    assert len((ROOT / "tools" / f"{name}.py").read_text().splitlines()) < 80
