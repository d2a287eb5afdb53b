import pytest

from rebnn_mm.integrations.demo_data import CLASSES, make_demo_data
from rebnn_mm.integrations.detection import CheckedVOCDataset


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
    assert all(16 <= x2 - x1 + 1 <= 60 and y2 - y1 == x2 - x1 for x1, y1, x2, y2 in boxes)


def test_bad_options_write_nothing(tmp_path):
    with pytest.raises(ValueError, match="train=0"):
        make_demo_data(tmp_path, train=0)
    assert not list(tmp_path.iterdir())
    make_demo_data(tmp_path, train=1, test=1)
    with pytest.raises(FileExistsError, match="exists already"):
        make_demo_data(tmp_path)
