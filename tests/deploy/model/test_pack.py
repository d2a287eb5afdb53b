"""Packed files inside mmdet and mmpretrain."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_defaults import torch_defaults

pytest.importorskip("mmdet")

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402

from rebnn_mm.deploy import ModelCard, RebnnFileError, export_model, load_model  # noqa: E402
from rebnn_mm.deploy.file.container import read_file, write_file  # noqa: E402
from rebnn_mm.deploy.graph.network import GraphNetwork  # noqa: E402
from rebnn_mm.deploy.layers.modules import PackedConv2d, PackedLinear  # noqa: E402
from rebnn_mm.integrations.packed import load_packed_model  # noqa: E402
from rebnn_mm.layers import binary_layers  # noqa: E402
from rebnn_mm.workflows.export import export_config  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("threads"),
    pytest.mark.xdist_group("packed detector"),  # one worker, which packs it once
]


@pytest.fixture(scope="module")
def packed_file(detector, tmp_path_factory):
    """(file, report) of the detector, verified while exported."""
    cfg, checkpoint, _ = detector
    path = tmp_path_factory.mktemp("packed") / "d.rebnn"
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small maps
    yield path, export_config(cfg, checkpoint, path)
    torch.set_num_threads(before)


@pytest.mark.slow
def test_detector_is_small_and_was_compared(packed_file):
    path, report = packed_file
    assert report.checked == 2 and report.before / path.stat().st_size > 8
    binary = {row.name for row in report.layers if row.precision == "1-bit"}
    assert {"rpn_head.rpn_conv", "neck.fpn_convs.0.conv", "roi_head.bbox_head.shared_fcs.0"} <= binary


@pytest.mark.slow
def test_detector_features_and_boxes_are_equal(detector, packed_file):
    cfg, _, model = detector
    packed = load_packed_model(packed_file[0])
    assert isinstance(packed.backbone, GraphNetwork) and not binary_layers(packed)
    assert isinstance(packed.rpn_head.rpn_conv, PackedConv2d)
    assert isinstance(packed.roi_head.bbox_head.shared_fcs[0], PackedLinear)
    aligned = [layer.use_torchvision for layer in packed.roi_head.bbox_roi_extractor.roi_layers]
    assert aligned == [True] * 4 and not model.roi_head.bbox_roi_extractor.roi_layers[0].use_torchvision
    assert packed.dataset_meta == {"classes": ("cat", "dog")} and packed.cfg.default_scope == "mmdet"
    for size in [(128, 160), (97, 131)]:
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        results = []
        for part in (model, packed):
            from mmdet.structures import DetDataSample

            sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0))
            data = part.data_preprocessor(dict(inputs=[image], data_samples=[sample]), False)
            with torch.no_grad():
                results.append(
                    (part.backbone(data["inputs"]), part.test_step(dict(inputs=[image], data_samples=[sample])))
                )
        (features, [expected]), (packed_features, [found]) = results
        assert all(torch.equal(a, b) for a, b in zip(features, packed_features, strict=True))
        assert len(expected.pred_instances) > 20
        for key in ("bboxes", "scores", "labels"):
            assert torch.equal(expected.pred_instances[key], found.pred_instances[key])


def _found(model, size=(97, 131)):
    from mmdet.structures import DetDataSample

    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0))
    [result] = model.test_step(dict(inputs=[image], data_samples=[sample]))
    return torch.cat([result.pred_instances.bboxes, result.pred_instances.scores[:, None]], dim=1)


@pytest.mark.slow
def test_detector_is_copied_and_pickled(packed_file, tmp_path):
    packed = load_packed_model(packed_file[0])
    expected = _found(packed)
    assert torch.equal(_found(copy.deepcopy(packed)), expected)
    assert torch.equal(_found(pickle.loads(pickle.dumps(packed))), expected)
    torch.save(packed, tmp_path / "packed.pth")
    assert torch.equal(_found(torch.load(tmp_path / "packed.pth", weights_only=False)), expected)
    other = load_packed_model(packed_file[0])
    for tensor in other.state_dict().values():
        tensor.bitwise_not_() if tensor.dtype == torch.uint8 else tensor.add_(1)
    other.load_state_dict(packed.state_dict())
    assert torch.equal(_found(other), expected)


@pytest.mark.slow
def test_detector_is_built_whatever_the_defaults_are(packed_file):
    expected = _found(load_packed_model(packed_file[0]))
    with torch_defaults(torch.bfloat16):
        packed = load_packed_model(packed_file[0])
        assert torch.get_default_dtype() == torch.bfloat16
    assert torch.equal(_found(packed), expected)


STOCK = [
    # heads of CondInst keep what they computed; Conditional DETR attends with weights that require a gradient
    "condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py",
    "conditional_detr/conditional-detr_r50_8xb2-50e_coco.py",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the stock models themselves
@pytest.mark.parametrize("name", STOCK)
def test_a_stock_detector_made_1_bit_is_exported(name, tmp_path):
    import mmdet
    from mmdet.utils import register_all_modules
    from mmengine.registry import init_default_scope

    from rebnn_mm.convert import binarize
    from rebnn_mm.deploy import Check
    from rebnn_mm.workflows.export import noise, outputs

    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")
    config = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs" / name)
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(config.model).eval()
    binarize(model)
    outputs(model, noise((96, 128))[0], "mmdet", True)  # with gradients: heads keep what has a history
    images = [noise(size)[0] for size in ((96, 128), (65, 97))]
    check = Check(images, lambda part, image: outputs(part, image, "mmdet", True), exact=True)
    report = export_model(model, tmp_path / "m.rebnn", check=check)
    assert report.checked == 2 and not report.differences


def test_detector_works_in_mmdets_inference(packed_file):
    from mmdet.apis import inference_detector

    packed = load_packed_model(packed_file[0])
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    assert len(inference_detector(packed, image).pred_instances) > 0


@pytest.mark.slow
def test_packed_model_is_a_registered_type(packed_file):
    model = MODELS.build(dict(type="PackedModel", path=str(packed_file[0])))
    assert isinstance(model.backbone, GraphNetwork)
    assert type(load_model(packed_file[0])) is type(model)


@pytest.mark.slow
def test_classifier_in_mmpretrain_equals_the_light_one(classifier, tmp_path):
    from mmpretrain.structures import DataSample

    from rebnn_mm.deploy import Preprocessing

    model = classifier(base_channels=8)
    head = dict(type="LinearClsHead", num_classes=10, in_channels=64)
    backbone = dict(type="ReBNNResNet", depth=18, base_channels=8)
    config = dict(
        default_scope="mmpretrain",
        data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True),
        model=dict(type="ImageClassifier", backbone=backbone, neck=dict(type="GlobalAveragePooling"), head=head),
    )
    card = ModelCard(config=config, preprocessing=Preprocessing((120.0,) * 3, (60.0,) * 3))
    export_model(model, tmp_path / "c.rebnn", card)
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    packed = load_packed_model(tmp_path / "c.rebnn")
    [sample] = packed.test_step(dict(inputs=[image], data_samples=[DataSample()]))
    light = load_model(tmp_path / "c.rebnn")
    assert torch.equal(light(image.flip(0)[None])[0], sample.pred_score)
    assert torch.equal(packed(torch.zeros(1, 3, 40, 40)), model(torch.zeros(1, 3, 40, 40)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"default_scope": "os"}, "no config of a model of mmdet or mmpretrain"),
        ({"custom_imports": {"imports": ["antigravity"]}}, "imports 'antigravity'"),
        ({"custom_imports": {"imports": "rebnn_mm_evil.x"}}, "imports 'rebnn_mm_evil.x'"),
        ({"model.neck.type": "os.system"}, "type 'os.system': only registered"),
        ({"model.neck.type": "mmdet.utils.os.system"}, "only registered"),
        ({"model.rpn_head.base": "subprocess.Popen"}, "only registered"),
        ({"model.neck.type": 3}, "only registered"),
        ({"model.neck.out_channels": 1 << 20}, "far more weights than the file holds"),
        ({"model.neck.num_outs": 7}, None),
        ({"model.rpn_head.binarize": None}, "needs a real-valued one"),
    ],
    ids=str,
)
def test_hostile_configs(packed_file, tmp_path, change, message):
    file = read_file(packed_file[0])
    config = Config(copy.deepcopy(file.info["config"]))
    config.merge_from_dict(change)
    write_file(tmp_path / "bad.rebnn", {**file.info, "config": config.to_dict()}, file.tensors)
    if message is None:
        load_packed_model(tmp_path / "bad.rebnn")
        return
    with pytest.raises(RebnnFileError, match=message):
        load_packed_model(tmp_path / "bad.rebnn")
