"""Images of other than three channels and other loaders, through every tool; the order of channels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

pytest.importorskip("mmdet")
pytest.importorskip("mmpretrain")

from mmcv.transforms import BaseTransform
from mmengine.registry import MODELS, TRANSFORMS

from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.integrations.images.pipeline import (
    ImageReader,
    channel_order,
    first_channels,
    image_channels,
    image_suffixes,
    without_annotations,
)
from rebnn_mm.workflows.export import export_config, preprocessing_of
from rebnn_mm.workflows.inference import Inferencer, find_images

pytestmark = pytest.mark.slow

CLASSIFIER = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['rebnn_mm', 'rebnn_mm.integrations.images.loading'])
data_preprocessor = dict(num_classes=2, MEAN)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ReBNNResNet', depth=18, base_channels=8, stem='cifar', in_channels=CHANNELS),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64))
test_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    type='CustomDataset', data_root='ROOT/folders', extensions=('.png', '.npy'), pipeline=[LOADER,
        dict(type='PackInputs')]))
test_cfg = dict()
test_evaluator = dict(type='Accuracy')
"""


@TRANSFORMS.register_module()
class FetchArray(BaseTransform):
    """A user's own loader: one .npy file an image."""

    def transform(self, results):
        image = np.load(results["img_path"])
        return dict(results, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])


@TRANSFORMS.register_module()
class OpenWithPillow(BaseTransform):
    """A user's own loader, which gives RGB."""

    def transform(self, results):
        image = np.asarray(Image.open(results["img_path"]).convert("RGB"))
        return dict(results, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])


def rgba(size):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 4), dtype=np.uint8))


def grey(size):
    return rgba(size).convert("L")


def deep(size):
    return Image.fromarray(np.random.default_rng(0).integers(0, 65536, (size, size), dtype=np.uint16))


def array(channels, kind):
    return lambda size: (np.random.default_rng(0).random((size, size, channels)) * 200).astype(kind)


KINDS = {
    "grey": (1, "dict(type='LoadCheckedImage', color_type='grayscale')", grey),
    "grey_without_in_words": (1, "dict(type='LoadImageFromFile', color_type='grayscale')", grey),
    "16_bit": (1, "dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True)", deep),
    "rgba": (4, "dict(type='LoadCheckedImage', color_type='unchanged')", rgba),
    "two_float": (2, "dict(type='FetchArray')", array(2, np.float32)),
    "thirteen": (13, "dict(type='FetchArray')", array(13, np.uint8)),
}


def write(path: Path, image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, np.ndarray):
        np.save(path.with_suffix(".npy"), image)
        return path.with_suffix(".npy")
    image.save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def classifier(root: Path, channels: int, loader: str, make, mean: str | None = None):
    """Config and checkpoint of a small classifier, and its data: two images of equal names."""
    for label in ("cat", "dog"):
        write(root / "folders" / label / "a", make(32))
    mean = mean or f"mean={[100.0] * channels}, std={[50.0] * channels}, to_rgb=False"
    text = CLASSIFIER.replace("CHANNELS", str(channels)).replace("MEAN", mean)
    config, weights = root / "c.py", root / "c.pth"
    config.write_text(text.replace("LOADER", loader).replace("ROOT", str(root)))
    torch.manual_seed(0)
    model = build_model(read_config(config))
    torch.save(dict(meta=dict(dataset_meta=dict(classes=("cat", "dog"))), state_dict=model.state_dict()), weights)
    return config, weights


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_tool_takes_what_trains(tool, tmp_path, capsys, kind):
    channels, loader, make = KINDS[kind]
    config, weights = classifier(tmp_path, channels, loader, make)
    if kind == "grey_without_in_words":  # no mean tells the channels
        config.write_text(config.read_text().replace("mean=[100.0], std=[50.0], ", ""))
    packed = tmp_path / "m.rebnn"
    tool("get_flops")(config)
    assert "one image of 32 x 32" in capsys.readouterr().out
    tool("browse_dataset")(config, "--out", tmp_path / "browse", "--split", "test")
    tool("export")(config, weights, packed)
    tool("benchmark")(packed, "--shape", 32, 32, "--rounds", 3, "--compare", config, weights)
    assert f"1 x {channels} x 32 x 32" in capsys.readouterr().out
    for name, model in (("trained", (config, weights)), ("packed", (packed,))):
        tool("infer")(tmp_path / "folders", *model, "--out", tmp_path / name)
        assert len(list((tmp_path / name).rglob("a*"))) == 2
    for name, model in (("trained", weights), ("packed", packed)):
        shown = tmp_path / f"test_{name}"
        tool("test")(config, model, "--work-dir", tmp_path / "t", "--show-dir", shown)
        assert sorted(path.parent.name for path in shown.rglob("a*")) == ["cat", "dog"]


DETECTOR = """
default_scope = 'mmdet'
custom_imports = dict(imports=['rebnn_mm', 'rebnn_mm.integrations.images.loading'])
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[100.0], std=[50.0], pad_size_divisor=32),
    backbone=dict(type='ReBNNResNet', depth=18, base_channels=8, out_indices=(2, 3), in_channels=1),
    neck=dict(type='FPN', in_channels=[32, 64], out_channels=8, num_outs=2),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', scales=[2.0], ratios=[1.0], strides=[16, 32])),
    test_cfg=dict(nms_pre=20, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5))
test_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    type='CocoDataset', metainfo=dict(classes=('cat', 'dog')), ann_file='ROOT/a.json', data_prefix=dict(img='ROOT/in'),
    test_mode=True, pipeline=[
        dict(type='LoadCheckedImage', color_type='grayscale'), dict(type='Resize', scale=(96, 64), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs', meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
test_cfg = dict()
test_evaluator = dict(type='CocoMetric', ann_file='ROOT/a.json')
"""


@pytest.mark.slow
def test_a_detector_of_one_channel_draws_images_of_equal_names_each(tool, tmp_path, capsys):
    names = ["cam0/1.png", "cam1/1.png", "cam1/2.png"]
    images = [dict(id=n, file_name=name, width=48, height=32) for n, name in enumerate(names, 1)]
    box = dict(bbox=[5, 5, 20, 20], area=400, iscrowd=0)
    boxes = [dict(box, id=n, image_id=n, category_id=1 + n % 2) for n in range(1, 4)]
    classes = [dict(id=1, name="cat"), dict(id=2, name="dog")]
    (tmp_path / "a.json").write_text(json.dumps(dict(images=images, annotations=boxes, categories=classes)))
    for name in names:
        write(tmp_path / "in" / name, grey(48).crop((0, 0, 48, 32)))
    config, weights, packed = tmp_path / "c.py", tmp_path / "c.pth", tmp_path / "m.rebnn"
    config.write_text(DETECTOR.replace("ROOT", str(tmp_path)))
    torch.save(dict(state_dict=build_model(read_config(config)).state_dict()), weights)
    tool("get_flops")(config)
    tool("browse_dataset")(config, "--out", tmp_path / "browse", "--split", "test")
    tool("export")(config, weights, packed)
    tool("benchmark")(packed, "--shape", 64, 96, "--rounds", 3)
    assert "1 x 1 x 64 x 96" in capsys.readouterr().out
    tool("infer")(tmp_path / "in", packed, "--out", tmp_path / "inferred")
    tool("test")(config, packed, "--work-dir", tmp_path / "t", "--show-dir", tmp_path / "shown")
    for folder in ("inferred", "shown"):
        files = sorted((tmp_path / folder).rglob("*.png"))
        assert [str(file.relative_to(tmp_path / folder)) for file in files] == names
    assert Image.open(tmp_path / "shown" / names[0]).size == (96, 32)  # truth left, detections right


@pytest.mark.parametrize("kind", ["grey", "rgba", "two_float"])
def test_the_inferencer_sees_what_the_test_loader_gives(tmp_path, kind):
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS

    channels, loader, make = KINDS[kind]
    config, weights = classifier(tmp_path, channels, loader, make)
    inferencer = Inferencer(read_config(config), weights, "cpu")
    dataset = DATASETS.build(read_config(config).test_dataloader.dataset)
    with torch.no_grad():
        (expected,) = inferencer.model.test_step(pseudo_collate([dataset[0]]))
    got = inferencer.predict(dataset[0]["data_samples"].img_path)
    assert torch.equal(got.pred_score, expected.pred_score)


def test_packed_files_take_any_channels_and_types(tmp_path):
    config, weights = classifier(tmp_path, 4, KINDS["rgba"][1], rgba)
    cfg = read_config(config)
    export_config(cfg, weights, tmp_path / "m.rebnn")
    packed: torch.nn.Module = load_model(tmp_path / "m.rebnn")
    images = torch.randint(0, 256, (2, 4, 24, 24), dtype=torch.uint8)
    trained = build_model(cfg)
    trained.load_state_dict(torch.load(weights)["state_dict"])
    with torch.no_grad():
        data = trained.data_preprocessor(dict(inputs=list(images)), False)
        expected = trained(data["inputs"], mode="tensor").softmax(1)
    for kind in (torch.uint8, torch.uint16, torch.int32, torch.float32, torch.float64):
        assert torch.equal(packed(images.to(kind)), expected)
    with pytest.raises(ValueError, match="give .N, C, H, W., C = 4"):
        packed(images[:, :3])


@pytest.mark.parametrize("turns", ["to_rgb=True", "to_rgb=False"])
def test_a_network_without_normalization_keeps_its_channel_order(tmp_path, turns):
    """The packed classifier takes RGB, whatever the network was trained on."""
    config, weights = classifier(tmp_path, 3, "dict(type='LoadCheckedImage')", lambda s: rgba(s).convert("RGB"), turns)
    export_config(read_config(config), weights, tmp_path / "m.rebnn")
    path = tmp_path / "folders" / "cat" / "a.png"
    expected = Inferencer(read_config(config), weights, "cpu").predict(path).pred_score
    image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
    assert torch.allclose(load_model(tmp_path / "m.rebnn")(image)[0], expected)


def pipeline_config(*steps, **model) -> Config:
    cfg = dict(default_scope="mmpretrain", model=dict(**model))
    return Config(dict(cfg, test_dataloader=dict(dataset=dict(pipeline=list(steps)))))


FILE = dict(type="LoadImageFromFile")
TURNS = dict(data_preprocessor=dict(to_rgb=True))


@pytest.mark.parametrize(
    ("steps", "model", "order"),
    [
        ([FILE], {}, "bgr"),
        ([dict(FILE, imdecode_backend="pillow")], {}, "bgr"),
        ([dict(FILE, imdecode_backend="tifffile")], {}, "rgb"),
        ([dict(FILE, color_type="unchanged")], {}, "bgr"),
        ([dict(type="OpenWithPillow")], {}, "rgb"),
        ([dict(type=OpenWithPillow)], TURNS, "rgb"),
        ([FILE, dict(type="NumpyToPIL", to_rgb=True)], {}, "rgb"),
        ([FILE, dict(type="NumpyToPIL", to_rgb=True), dict(type="PILToNumpy", to_bgr=True)], {}, "bgr"),
        ([FILE, dict(type="Normalize", mean=[9.0] * 3, std=[5.0] * 3, to_rgb=True)], {}, "rgb"),
        ([FILE, dict(type="ColorJitter", hue=0.5), dict(type="PackInputs")], {}, "bgr"),
        # no file tells, so the data preprocessor does
        ([dict(type="FetchArray")], TURNS, "bgr"),
        ([dict(type="PackInputs")], TURNS, "bgr"),
        ([dict(type="PackInputs")], {}, "rgb"),
    ],
)
def test_channel_order_is_what_the_pipeline_really_yields(steps, model, order):
    if any(step.get("imdecode_backend") == "tifffile" for step in steps):
        pytest.importorskip("tifffile")
    build_registries()
    assert channel_order(pipeline_config(*steps, **model), "test") == order


def build_registries():
    from mmpretrain.utils import register_all_modules

    register_all_modules()


def test_loader_flags_reach_inference(tmp_path):
    """A photo turned by its EXIF tag: upright by default, as stored with ``ignore_orientation``."""
    build_registries()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    for flag, size in (("color", (40, 20)), ("color_ignore_orientation", (20, 40))):
        reader = ImageReader(pipeline_config(dict(FILE, color_type=flag)))
        assert reader.load(tmp_path / "a.jpg").image.shape[:2] == size


def test_a_pipeline_without_a_loader_reads_files_in_the_data_sets_order(tmp_path):
    """As for CIFAR-10, whose data set hands over RGB arrays."""
    build_registries()
    Image.new("RGB", (8, 8), (200, 40, 20)).save(tmp_path / "a.png")
    packed = ImageReader(pipeline_config(dict(type="PackInputs")))
    assert packed.prepare(packed.load(tmp_path / "a.png"))["inputs"][:, 0, 0].tolist() == [200, 40, 20]
    grey = ImageReader(pipeline_config(dict(type="PackInputs")), channels=1)
    assert grey.prepare(grey.load(tmp_path / "a.png"))["inputs"].shape == (1, 8, 8)


def test_unreadable_files_and_strange_loaders_say_so(tmp_path):
    build_registries()
    reader = ImageReader(pipeline_config(FILE))
    picture = tmp_path / "a.png"
    rgba(32).save(picture)
    picture.write_bytes(picture.read_bytes()[:-1500])
    with pytest.raises(ValueError, match="cannot be decoded"):
        reader.load(picture)  # OpenCV alone fills the rest
    (tmp_path / "b.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="cannot be decoded"):
        ImageReader(pipeline_config(dict(type="FetchArray"))).load(tmp_path / "b.npy")
    with pytest.raises(ValueError, match="no test_dataloader with a pipeline"):
        ImageReader(pipeline_config())


def test_annotations_are_not_loaded_wherever_they_stand():
    build_registries()
    from mmcv.transforms import LoadAnnotations

    nested = dict(type="RandomApply", transforms=[dict(type="LoadAnnotations"), dict(type="Resize", scale=(8, 8))])
    steps = [FILE, dict(type=LoadAnnotations), dict(type="mmdet.LoadPanopticAnnotations"), nested]
    assert without_annotations(steps) == [FILE, dict(nested, transforms=[nested["transforms"][1]])]


def test_channels_come_from_config_means_or_the_first_layer():
    from mmdet.models import CSPDarknet

    layer = torch.nn.Sequential(torch.nn.Conv2d(6, 8, 3, groups=2))
    assert first_channels(layer) == 6
    assert first_channels(CSPDarknet(widen_factor=0.125)) == 3  # its stem makes twelve of three
    assert image_channels(pipeline_config(FILE), layer) == 6
    assert image_channels(pipeline_config(FILE, data_preprocessor=dict(mean=[1.0] * 5)), layer) == 5
    assert image_channels(pipeline_config(FILE, backbone=dict(in_channels=2)), layer) == 2


def test_channels_of_a_packed_backbone_are_those_of_its_graph(tmp_path):
    """A packed YOLOX, whose config has no means, was given images of its head's 128 channels."""
    backbone = MODELS.build(dict(type="ReBNNConv2d", in_channels=5, out_channels=8, kernel_size=3)).eval()
    export_model(backbone, tmp_path / "m.rebnn", check=Check([torch.randn(1, 5, 9, 9)]))
    packed = torch.nn.Sequential(load_model(tmp_path / "m.rebnn"), torch.nn.Conv2d(8, 2, 1))
    assert image_channels(pipeline_config(FILE), packed) == 5


def test_one_mean_stands_for_all_channels():
    build_registries()
    one = dict(mean=[100.0], std=[50.0], to_rgb=True)
    card = preprocessing_of(pipeline_config(FILE, backbone=dict(in_channels=3), data_preprocessor=one))
    assert card is not None and (card.mean, card.std, card.channel_order) == ((100.0,) * 3, (50.0,) * 3, "rgb")


def test_folders_are_searched_for_what_the_loader_reads(tmp_path):
    build_registries()
    for name in ("a.npy", "b.PGM", "c.txt", "sub/a.npy", "sub/a.png"):
        write_bytes = tmp_path / "in" / name
        write_bytes.parent.mkdir(parents=True, exist_ok=True)
        write_bytes.write_bytes(b"x")

    def found(*steps):
        pairs = find_images(tmp_path / "in", tmp_path / "out", image_suffixes(pipeline_config(*steps)))
        return [str(file.relative_to(tmp_path / "out")) for _, file in pairs]

    assert found(FILE) == ["b.PGM.png", "sub/a.png"]
    assert found(dict(type="FetchArray")) == ["a.npy.png", "b.PGM.png", "sub/a.npy.png", "sub/a.png"]
