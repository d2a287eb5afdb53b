"""Detectors as programs, from an image to boxes in C++."""

import ctypes

import pytest
import torch
from cpp_runtime import NEEDS, PIXELS, SIZE, run, write_ppm

from rebnn_mm.deploy.targets.executorch import program as programs
from rebnn_mm.errors import UserError

pytestmark = NEEDS


def check_boxes(built, program, expected):
    """Hold what C++ gives for PIXELS against ``expected``, (corners, score, label) each."""
    picture = write_ppm(program.parent / "a.ppm", PIXELS)
    done = run(built, program, picture, "--detector", "--top", 100)
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ") for line in done.stdout.splitlines() if line.count("  ") == 2]
    assert len(lines) > 20
    assert boxes_in_c(built, program, picture) == [" ".join(line) for line in lines]
    near = 0
    for (score, label, box), (wanted, value, index) in zip(lines, expected, strict=False):
        gap = (torch.tensor([float(n) for n in box.split()]) - wanted).abs().max()
        near += label == f"class {index}" and abs(float(score) - float(value)) < 2e-3 and gap < 0.5
    # scores that are equal but for rounding may change places, and signs may turn
    assert near >= 0.8 * min(len(lines), len(expected)) and abs(len(lines) - len(expected)) < 10


def suppressed(boxes, scores, labels, nms, most):
    """As mmdet chooses, by torchvision: mmcv's compiled suppression lags behind new versions of torch."""
    from torchvision.ops import batched_nms

    kept = batched_nms(boxes, scores, labels, nms.iou_threshold)[:most]
    return boxes[kept], scores[kept], labels[kept]


RETINA, FCOS, RTMDET = (f"{name}_rebnn_r18_coco" for name in ("retinanet", "fcos", "rtmdet"))
PREDICTIONS = {RETINA: ("retina_cls", "retina_reg"), FCOS: ("conv_cls", "conv_reg")} | {
    f"{RTMDET}_320": [f"rtm_{kind}.{level}" for kind in ("cls", "reg") for level in range(3)]
}
SQUARES = dict(ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16, 32, 64, 128])
ATSS = dict(
    type="ATSSHead",
    num_classes=80,
    in_channels=256,
    feat_channels=64,
    stacked_convs=1,
    norm_cfg=dict(type="BN"),
    anchor_generator=dict(type="AnchorGenerator", **SQUARES),
    bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2]),
    loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True),
)


@pytest.mark.parametrize(
    ("config", "options", "last"),
    [
        *((config, {}, last) for config, last in PREDICTIONS.items()),
        # one class, and a factor of its own kind
        (f"{RTMDET}_320", {"model.bbox_head.with_objectness": True}, PREDICTIONS[f"{RTMDET}_320"]),
        (RETINA, {"model.bbox_head": dict(_delete_=True, **ATSS)}, ("atss_cls", "atss_reg")),
    ],
    ids=["retinanet", "fcos", "rtmdet", "rtmdet with objectness", "atss"],
)
def test_a_one_stage_detector_gives_mmdets_boxes(built, exported, config, options, last):
    from rebnn_mm.integrations.executorch import DenseMaps

    spread = {f"bbox_head.{name}": 0.01 for name in last}
    packed, x, program = exported(config, {"model.test_cfg.score_thr": 0.02, **options}, spread)
    assert exported.report.placement.portable == {}  # it needs no kernel library
    head = packed.bbox_head
    with torch.no_grad():
        maps = DenseMaps(packed)(x)
        levels = len(head.prior_generator.strides)
        grouped = [list(maps[at : at + levels]) for at in range(0, len(maps), levels)]
        meta = dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0))
        found = head.predict_by_feat(*grouped, batch_img_metas=[meta], rescale=False, with_nms=False)[0]
    scores = found.scores * (found.score_factors if "score_factors" in found else 1)
    chosen = suppressed(found.bboxes, scores, found.labels, head.test_cfg.nms, head.test_cfg.max_per_img)
    check_boxes(built, program, list(zip(*chosen, strict=True)))


def proposals_of(head, scores, deltas):
    """What mmdet's RPN head makes of its maps."""
    priors = head.prior_generator.grid_priors([level.shape[2:] for level in scores], device="cpu")
    parts = []
    for index, (level, moves, boxes) in enumerate(zip(scores, deltas, priors, strict=True)):
        best, places = level[0].permute(1, 2, 0).flatten().sigmoid().sort(descending=True, stable=True)
        best, places = best[: head.test_cfg.nms_pre], places[: head.test_cfg.nms_pre]
        decoded = head.bbox_coder.decode(boxes[places], moves[0].permute(1, 2, 0).reshape(-1, 4)[places], SIZE)
        parts.append((decoded, best, torch.full_like(places, index)))
    boxes, scores, levels = map(torch.cat, zip(*parts, strict=True))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return suppressed(boxes[kept], scores[kept], levels[kept], head.test_cfg.nms, head.test_cfg.max_per_img)[0]


def boxes_of_regions(head, rois, scores, deltas):
    """What mmdet's RoI head makes of its results."""
    box_head, cfg = head.bbox_head, head.test_cfg
    scores = scores.softmax(1)[:, :-1]
    boxes = box_head.bbox_coder.decode(rois[:, 1:].repeat_interleave(scores.shape[1], 0), deltas.reshape(-1, 4), SIZE)
    labels = torch.arange(scores.shape[1]).repeat(len(rois))
    kept = scores.flatten() > cfg.score_thr
    chosen = suppressed(boxes[kept], scores.flatten()[kept], labels[kept], cfg.nms, cfg.max_per_img)
    return list(zip(*chosen, strict=True))


CONVOLUTIONS = {"type": "ConvFCBBoxHead", "num_shared_convs": 1, "num_shared_fcs": 1, "conv_out_channels": 96}
BITS = {"type": "Binarized", "base": "Shared2FCBBoxHead", "binarize": dict(include="shared_fcs.0", types="Linear")}


@pytest.mark.parametrize("head", [{}, CONVOLUTIONS, BITS], ids=["linear", "convolutions", "bits"])
def test_a_two_stage_detector_gives_mmdets_boxes(built, exported, head):
    from rebnn_mm.integrations.regions import RegionMaps

    options = {f"model.roi_head.bbox_head.{name}": value for name, value in head.items()}
    options |= {"model.test_cfg.rpn.max_per_img": 150, "model.test_cfg.rcnn.score_thr": 0.02}
    spread = {"rpn_head.rpn_cls": 0.02, "rpn_head.rpn_reg": 0.02, "roi_head.bbox_head.fc_cls": 0.05}
    packed, x, program = exported("faster_rcnn_rebnn_r18_demo", options, {**spread, "roi_head.bbox_head.fc_reg": 0.05})
    assert exported.report.placement.portable == {}
    levels = len(packed.rpn_head.prior_generator.strides)
    with torch.no_grad():
        maps = RegionMaps(packed)(x)
        boxes = proposals_of(packed.rpn_head, maps[:levels], maps[levels : 2 * levels])
        assert len(boxes) == 150  # more than the program takes at once
        rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
        results = packed.roi_head.bbox_head(packed.roi_head.bbox_roi_extractor(maps[2 * levels :], rois))
        expected = boxes_of_regions(packed.roi_head, rois, *results)
    check_boxes(built, program, expected)
    done = run(built, program, program.parent / "a.ppm", "--detector", "--profile")
    named = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("part ")]
    assert named == ["image:", "maps:", "proposals:", "regions:", "heads:", "boxes:"]


def test_images_of_several_sizes(built, exported, tmp_path):
    from rebnn_mm.integrations.regions import RegionMaps

    options = {"test_dataloader.dataset.pipeline.1.scale": (160, 128), "model.test_cfg.rcnn.score_thr": 0.02}
    packed, _, path = exported("faster_rcnn_rebnn_r18_demo", options, {}, smaller=True)
    assert "images of 64x64 to 128x160, multiples of 32" in str(exported.report)
    program = programs.load_executorch(path)
    for size in ((128, 160), (64, 64), (96, 128)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = RegionMaps(packed)(x)
        for found, wanted in zip(program(x), expected, strict=True):
            assert found.shape == wanted.shape
            assert torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))
    with pytest.raises(UserError, match=r"takes torch.float32 \(1, 3, 64, 64\) to \(1, 3, 128, 160\), .* of 32$"):
        program(torch.randn(1, 3, 64, 80))
    # 80x160 pixels stay, filled up to 96x160; an upright picture becomes 160 pixels high
    for (height, width), sentence in (((80, 160), ""), ((500, 400), "becomes 128x160, more than the 160x128 that")):
        picture = write_ppm(tmp_path / "b.ppm", PIXELS.repeat(5, 0).repeat(5, 1)[:height, :width])
        done = run(built, path, picture, "--detector")
        assert (sentence in done.stderr) if sentence else done.returncode == 0, done.stderr
    assert run(built, path, "--noise", "--size", 96, 128).returncode == 0
    done = run(built, path, "--noise", "--size", 100, 128)
    assert done.returncode == 1
    assert "takes (1, 3, 64 to 128, 64 to 160), height and width multiples of 32" in done.stderr


def test_a_second_method_is_called_by_its_name(built, exported):
    packed, _, path = exported("faster_rcnn_rebnn_r18_demo", {}, {})
    program = programs.load_executorch(path)
    x = torch.randn(100, 96 * 49)
    with torch.no_grad():
        expected = packed.roi_head.bbox_head(x.reshape(100, 96, 7, 7))
    for found, wanted in zip(program.run("rois", x), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))
    with pytest.raises(UserError, match=r"input 0 is torch.float32 \(99, 4704\); the program takes"):
        program.run("rois", x[:99])
    with pytest.raises(UserError, match="has no method 'masks'; it has forward, rois"):
        program.run("masks", x)
    done = run(built, path, "--noise", "--method", "masks")
    assert done.returncode == 1 and "has no method masks" in done.stderr


class CBox(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in ("left", "top", "right", "bottom", "score")] + [
        ("label", ctypes.c_int32)
    ]


def boxes_in_c(built, model, image):
    """The boxes of the C interface as ``rebnn_run`` prints them."""
    programs._bindings()  # ExecuTorch's library first
    library = ctypes.CDLL(str(built / "librebnn.so"), mode=ctypes.RTLD_GLOBAL)
    library.rebnn_error.restype = library.rebnn_detector_class.restype = ctypes.c_char_p
    library.rebnn_detector_open.restype = ctypes.c_void_p
    library.rebnn_detector_class.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.rebnn_detector_run_file.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32]
    library.rebnn_detector_close.argtypes = [ctypes.c_void_p]
    assert library.rebnn_detector_open(b"none.pte") is None and b"cannot be read" in library.rebnn_error()
    detector, boxes = library.rebnn_detector_open(str(model).encode()), (CBox * 100)()
    assert library.rebnn_detector_run_file(detector, b"none.ppm", boxes, 100) == -1
    found = library.rebnn_detector_run_file(detector, str(image).encode(), boxes, 100)
    lines = [
        f"{b.score:.4f} {library.rebnn_detector_class(detector, b.label).decode()} "
        f"{b.left:.1f} {b.top:.1f} {b.right:.1f} {b.bottom:.1f}"
        for b in boxes[:found]
    ]
    library.rebnn_detector_close(detector)
    return lines
