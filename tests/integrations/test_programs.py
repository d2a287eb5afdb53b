"""Programs inside mmpretrain and mmdet; torch stands in for ExecuTorch, whose own tests are in tests/deploy/targets."""

from pathlib import Path

import pytest
import torch
from torch import nn

from rebnn_mm.errors import UserError
from rebnn_mm.integrations import programs
from rebnn_mm.integrations.build import build_model, read_config

ROOT = Path(__file__).parents[2]


class Program:
    """What ``load_executorch`` gives: a network for one image of one size."""

    def __init__(self, network, size, kind, classes=None):
        self.network, self.size = network, size
        shape = [1, 3, *size]
        self.card = dict(kind=kind, inputs=[dict(shape=shape)], detector=dict(classes=classes) if classes else None)

    def __call__(self, x):
        assert tuple(x.shape) == (1, 3, *self.size)
        return computed(self.network, x)


class TwoMethods(Program):
    """The same of a two-stage detector, for 7 regions at once."""

    def __init__(self, maps, head, size, classes):
        super().__init__(maps, size, "detector", 1)
        self.head, self.taken = head, []
        self.card["detector"]["regions"] = dict(classes=classes)
        self.card["methods"] = dict(rois=[dict(shape=[7, head.shape[0] * head.shape[1] * head.shape[2]])])

    def run(self, method, x):
        assert method == "rois" and tuple(x.shape) == tuple(self.card["methods"]["rois"][0]["shape"])
        self.taken.append(x)
        return computed(self.head, x)


def computed(network, x):
    with torch.no_grad():
        y = network(x)
    results = [y] if isinstance(y, torch.Tensor) else list(y)
    # in the memory order of programs
    return [y.contiguous(memory_format=torch.channels_last) if y.dim() == 4 else y for y in results]


@pytest.fixture
def loaded(monkeypatch):
    """Let the next file hold this program."""
    return lambda program: monkeypatch.setattr(programs, "load_executorch", lambda path: program)


def test_a_classifier_is_mmpretrains_around_the_programs_scores(loaded):
    pytest.importorskip("mmpretrain")
    cfg = read_config(ROOT / "configs/resnet18_rebnn_cifar10.py")
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    loaded(Program(network, (32, 32), "classifier"))
    model = programs.load_program_model("a.pte", cfg)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found = model.test_step(dict(inputs=list(pixels), data_samples=None))
    x = model.data_preprocessor(dict(inputs=list(pixels)))["inputs"]
    with torch.no_grad():
        expected = network(x).softmax(1)
    assert torch.allclose(torch.stack([sample.pred_score for sample in found]), expected, atol=1e-6)
    with pytest.raises(UserError, match="gives an image of 40x32, and the program is for 32x32.*--size 40 32$"):
        model.test_step(dict(inputs=[torch.zeros(3, 40, 32)], data_samples=None))


@pytest.mark.parametrize("kind", ["network", "detector"])
def test_a_program_of_another_kind_is_refused(loaded, kind):
    pytest.importorskip("mmpretrain")
    cfg = read_config(ROOT / "configs/resnet18_rebnn_cifar10.py")
    loaded(Program(nn.Identity(), (32, 32), kind))
    with pytest.raises(UserError, match=f"a.pte is the program of a {kind}, and the config's is a classifier$"):
        programs.load_program_model("a.pte", cfg)


def detect(detector, size):
    from mmdet.structures import DetDataSample

    samples = [DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))]
    torch.manual_seed(1)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return detector.test_step(dict(inputs=[image], data_samples=samples))[0].pred_instances


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ("retinanet_rebnn_r18_coco", ["retina_cls"]),
        ("rtmdet_rebnn_r18_coco_320", ["rtm_cls.0", "rtm_cls.1", "rtm_cls.2"]),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # mmdet's points
def test_a_detector_gives_the_boxes_of_mmdet(loaded, config, layers):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmcv.ops")

    from rebnn_mm.integrations.executorch import DenseMaps

    cfg = read_config(ROOT / f"configs/{config}.py", {"model.test_cfg.score_thr": 0.011})
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for layer in layers:
        model.bbox_head.get_submodule(layer).weight.data.normal_(0, 0.05)
    loaded(Program(DenseMaps(model).eval(), (128, 160), "detector", 80))
    through = programs.load_program_model("a.pte", cfg)

    expected, found = detect(model, (128, 160)), detect(through, (128, 160))
    assert len(found) > 20
    for name in ("bboxes", "scores", "labels"):
        assert torch.allclose(expected[name].float(), found[name].float(), atol=1e-4)
    smaller = detect(through, (96, 130))  # filled up to the program's size, boxes stay inside of the image
    assert len(smaller) > 20 and smaller.bboxes[:, 2].max() <= 130 and smaller.bboxes[:, 3].max() <= 96
    with pytest.raises(UserError, match="128x192, and the program is for 128x160.*--size 128 192 or larger"):
        detect(through, (128, 192))


def test_a_two_stage_detector_gives_the_boxes_of_mmdet(loaded):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmcv.ops")
    from rebnn_mm.integrations.regions import RegionHead, RegionMaps

    cfg = read_config(ROOT / "configs/faster_rcnn_rebnn_r18_demo.py", {"model.test_cfg.rpn.max_per_img": 30})
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    model.roi_head.bbox_head.fc_cls.weight.data.normal_(0, 1)
    head = RegionHead(model).eval()
    assert head.is_flat
    program = TwoMethods(RegionMaps(model).eval(), head, (128, 160), 4)
    loaded(program)
    through = programs.load_program_model("a.pte", cfg)
    expected, found = detect(model, (128, 160)), detect(through, (128, 160))
    assert len(found) > 10 and len(program.taken) == 5  # 30 regions, 7 at once
    for name in ("bboxes", "scores", "labels"):
        assert torch.allclose(expected[name].float(), found[name].float(), atol=1e-3)
    smaller = detect(through, (96, 130))
    assert len(smaller) and smaller.bboxes[:, 2].max() <= 130 and smaller.bboxes[:, 3].max() <= 96
    loaded(TwoMethods(RegionMaps(model).eval(), head, (128, 160), 5))
    with pytest.raises(UserError, match="a.pte tells 5 classes apart, and the config's model 4"):
        programs.load_program_model("a.pte", cfg)
    loaded(Program(nn.Identity(), (128, 160), "detector", 4))
    with pytest.raises(UserError, match="a.pte is a one-stage detector's program, and the config's is a two-stage one"):
        programs.load_program_model("a.pte", cfg)


def test_a_detector_of_other_classes_or_without_boxes_is_refused(loaded):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmcv.ops")
    cfg = read_config(ROOT / "configs/retinanet_rebnn_r18_coco.py")
    loaded(Program(nn.Identity(), (128, 160), "detector", 3))
    with pytest.raises(UserError, match="a.pte tells 3 classes apart, and the config's model 80"):
        programs.load_program_model("a.pte", cfg)
    loaded(Program(nn.Identity(), (128, 160), "network"))
    with pytest.raises(UserError, match="export it with --part boxes --size H W$"):
        programs.load_program_model("a.pte", cfg)
