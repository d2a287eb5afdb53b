import numpy as np
import pytest
from small_disk import run_on_small_disk

from rebnn_mm.integrations.detection.datasets import CheckedVOCDataset
from rebnn_mm.workflows.demo_data import CLASSES, _draw, make_demo_data


@pytest.mark.slow
def test_is_a_voc_data_set_and_seeded(tmp_path):
    root = make_demo_data(tmp_path / "a", train=6, test=2)
    again = make_demo_data(tmp_path / "b", train=6, test=2)
    for path in (root / "JPEGImages").iterdir():
        assert path.read_bytes() == (again / "JPEGImages" / path.name).read_bytes()
    data = CheckedVOCDataset(
        data_root=str(root.parent),
        ann_file="VOC2007/ImageSets/Main/trainval.txt",
        data_prefix=dict(sub_data_root="VOC2007/"),
        metainfo=dict(classes=CLASSES),
        pipeline=[],
    )
    assert len(data) == 6
    boxes = [i["bbox"] for n in range(6) for i in data.get_data_info(n)["instances"]]
    sides = [side for x1, y1, x2, y2 in boxes for side in (x2 - x1, y2 - y1)]
    assert all(0 <= x1 and 0 <= y1 and x2 <= 160 and y2 <= 120 for x1, y1, x2, y2 in boxes)
    assert min(sides) >= 10 and max(sides) > 2 * min(sides)  # varied, none too small to see


def test_boxes_fit_the_shapes():
    image, boxes = _draw(np.random.default_rng(1), 160, 120)
    assert boxes
    shape = np.ptp(image.astype(int), axis=2) > 90  # stronger colours than any background has
    for _, (x1, y1, x2, y2) in boxes:
        inside = shape[y1 - 1 : y2, x1 - 1 : x2]
        for border in (inside[:2], inside[-2:], inside[:, :2], inside[:, -2:]):
            assert border.any()


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_data_set(tmp_path):
    code = """
import sys
from rebnn_mm.workflows.demo_data import make_demo_data
with small_disk(1500):  # room for the annotations and not for a picture
    make_demo_data(sys.argv[1], train=2, test=1)
"""
    done = run_on_small_disk(code, tmp_path)
    assert "UserFileError: cannot write" in done.stderr and "File too large" in done.stderr
    root = make_demo_data(tmp_path, train=2, test=1)
    assert len(list((root / "JPEGImages").iterdir())) == 3 and [p.name for p in root.parent.iterdir()] == ["VOC2007"]


def test_bad_options_write_nothing(tmp_path):
    with pytest.raises(ValueError, match="train=0"):
        make_demo_data(tmp_path, train=0)
    assert not list(tmp_path.iterdir())
    make_demo_data(tmp_path, train=1, test=1)
    with pytest.raises(OSError, match="exists already"):
        make_demo_data(tmp_path)
