"""The second stage of a two-stage detector in C++, without ExecuTorch, beside mmdet's and torchvision's."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from arm import COMPILER, EMULATOR, needs_arm

pytestmark = [
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++"),
    pytest.mark.xdist_group("regions"),  # one worker, which compiles once
]
RUNTIME = Path(__file__).parents[4] / "runtime"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CHANNELS, SIZE, CLASSES = 5, (96, 128), 3
CARD = dict(
    strides=[4.0, 8.0, 16.0, 32.0], height=7, width=7, samples=0, finest_scale=12.0, means=[0.0] * 4,
    stds=[0.1, 0.1, 0.2, 0.2], agnostic=False, classes=CLASSES, score_thr=0.2, iou_threshold=0.5, max_per_img=20,
)  # fmt: skip


def build(folder: Path, *flags: str, compiler: str = "g++") -> Path:
    sources = [RUNTIME / "tests/regions_test.cpp"]
    sources += [RUNTIME / f"src/{name}.cpp" for name in ("regions", "roi_align", "boxes", "json")]
    program = folder / "regions_test"
    subprocess.run([compiler, "-std=c++17", *flags, f"-I{RUNTIME / 'include'}", *sources, "-o", program], check=True)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("regions"), "-O1", "-w")


def case(boxes: int = 60, agnostic: bool = False, seed: int = 0):
    """(maps, proposals, scores, deltas) of an image of SIZE; some proposals are empty, some as large as the image."""
    torch.manual_seed(seed)
    maps = [torch.randn(1, CHANNELS, SIZE[0] // stride, SIZE[1] // stride) for stride in (4, 8, 16, 32)]
    corners = torch.rand(boxes, 2, 2) * torch.tensor([SIZE[1], SIZE[0]]) * torch.tensor([1.0, 1.1])
    proposals = torch.cat([corners.amin(1), corners.amax(1)], 1).clamp(min=0)
    proposals = torch.minimum(proposals, torch.tensor([SIZE[1], SIZE[0]] * 2))
    proposals[0] = torch.tensor([0.0, 0.0, SIZE[1], SIZE[0]])
    proposals[1] = torch.tensor([20.0, 30.0, 20.0, 30.0])
    deltas = torch.randn(boxes, 4 if agnostic else 4 * CLASSES) * 2
    return maps, proposals, torch.randn(boxes, CLASSES + 1) * 3, deltas


def run(program, folder: Path, given, card=CARD, channels_last=True):
    """(what was read, boxes (K, 6)); ``program`` may be a list, with the emulator in front."""
    maps, proposals, scores, deltas = given
    sizes = [n for x in maps for n in x.shape[2:]]
    numbers = np.array([CHANNELS, len(maps), *sizes, len(proposals), channels_last], dtype=np.int32).tobytes()
    stored = [x.permute(0, 2, 3, 1) if channels_last else x for x in maps]
    parts = [torch.tensor([SIZE[1], SIZE[0]]).float(), *stored, proposals, scores, deltas]
    (folder / "card").write_text(json.dumps(card))
    (folder / "in").write_bytes(numbers + b"".join(x.contiguous().numpy().tobytes() for x in parts))
    command = program if isinstance(program, list) else [program]
    done = subprocess.run(
        [*command, folder / "card", folder / "in", folder / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]
    if done.returncode:
        return done.stdout.strip(), None
    out = torch.from_numpy(np.fromfile(folder / "out", dtype=np.float32).copy())
    bins = card["height"] * card["width"]
    pooled, boxes = out[: len(proposals) * CHANNELS * bins], out[len(proposals) * CHANNELS * bins :]
    shape = (len(proposals), bins, CHANNELS) if channels_last else (len(proposals), CHANNELS, bins)
    pooled = pooled.reshape(shape)
    return pooled.transpose(1, 2) if channels_last else pooled, boxes.reshape(-1, 6)


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_regions_are_those_of_mmdets_extractor(program, tmp_path, samples, channels_last):
    pytest.importorskip("mmcv.ops")
    extractors = pytest.importorskip("mmdet.models.roi_heads.roi_extractors")
    given = case()
    layer = dict(type="RoIAlign", output_size=7, sampling_ratio=samples, use_torchvision=False)
    extractor = extractors.SingleRoIExtractor(layer, CHANNELS, [4, 8, 16, 32], finest_scale=12)
    rois = torch.cat([torch.zeros(len(given[1]), 1), given[1]], 1)
    levels = extractor.map_roi_levels(rois, 4)
    assert set(levels.tolist()) == {0, 1, 2, 3}
    expected = extractor(given[0], rois).flatten(2)
    found, _ = run(program, tmp_path, given, {**CARD, "samples": samples}, channels_last)
    assert torch.allclose(found, expected, atol=1e-5) and expected.abs().max() > 1


@pytest.mark.parametrize("agnostic", [True, False])
def test_boxes_are_those_of_mmdets_head(program, tmp_path, agnostic):
    pytest.importorskip("mmcv.ops")
    heads = pytest.importorskip("mmdet.models.roi_heads.bbox_heads")
    from mmengine.config import ConfigDict

    given = case(agnostic=agnostic)
    coder = dict(type="DeltaXYWHBBoxCoder", target_means=CARD["means"], target_stds=CARD["stds"])
    head = heads.BBoxHead(num_classes=CLASSES, bbox_coder=coder, reg_class_agnostic=agnostic)
    cfg = ConfigDict(score_thr=0.2, nms=dict(type="nms", iou_threshold=0.5), max_per_img=20)
    rois = torch.cat([torch.zeros(len(given[1]), 1), given[1]], 1)
    meta = dict(img_shape=SIZE, scale_factor=(1.0, 1.0))
    (expected,) = head.predict_by_feat((rois,), (given[2],), (given[3],), [meta], cfg, rescale=False)
    _, found = run(program, tmp_path, given, {**CARD, "agnostic": agnostic})
    assert len(found) == len(expected) == 20
    assert torch.allclose(found[:, :4], expected.bboxes, atol=1e-3)
    assert torch.allclose(found[:, 4], expected.scores, atol=1e-6) and torch.equal(found[:, 5].long(), expected.labels)


def test_numbers_that_are_none_give_no_box(program, tmp_path):
    maps, proposals, scores, deltas = case(4)
    scores[0], deltas[1], deltas[2] = float("nan"), float("nan"), float("inf")
    pooled, boxes = run(program, tmp_path, (maps, proposals, scores, deltas))
    assert pooled.isfinite().all() and boxes.isfinite().all()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("strides", [], "regions without levels"),
        ("strides", [4.0, 0.0], "a stride of regions"),
        ("height", 0, "malformed"),
        ("samples", -1, "malformed"),
        ("finest_scale", 0, "how regions become boxes"),
        ("means", [0.0], "how regions become boxes"),
        ("classes", "many", "malformed"),
        ("agnostic", None, "malformed"),
    ],
)
def test_a_malformed_card_is_a_sentence(program, tmp_path, key, value, sentence):
    text, _ = run(program, tmp_path, case(2), {**CARD, key: value})
    assert text.startswith("refused: the program's card is malformed") and sentence in text


@pytest.mark.slow
def test_nothing_is_read_outside_of_maps(tmp_path):
    try:
        program = build(tmp_path, "-O1", "-w", *SANITIZE)
    except subprocess.CalledProcessError:
        pytest.skip("needs a g++ with the libraries of its sanitizers")
    for seed in range(6):
        maps, *rest = case(200, seed=seed)
        for samples in (0, 1, 3):
            run(program, tmp_path, (maps, *rest), {**CARD, "samples": samples})
        # maps of one pixel, and of other sizes than the strides say
        run(program, tmp_path, ([x[:, :, :1, :1].contiguous() for x in maps], *rest))
        run(program, tmp_path, (list(reversed(maps)), *rest), channels_last=False)


@pytest.mark.slow
@needs_arm
def test_arm_gives_the_same_numbers(program, tmp_path):
    on_arm = [EMULATOR, build(tmp_path, "-O2", "-w", "-static", compiler=COMPILER)]
    given = case()
    for channels_last in (True, False):
        found, wanted = (run(one, tmp_path, given, channels_last=channels_last) for one in (on_arm, program))
        # ARM's compiler fuses products and sums where this one's default does not
        for a, b in zip(found, wanted, strict=True):
            assert a.shape == b.shape and torch.allclose(a, b, atol=1e-4)
