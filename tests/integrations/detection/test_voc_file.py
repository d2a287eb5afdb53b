import shutil

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet")

from mmdet.registry import DATASETS  # noqa: E402

from rebnn_mm.integrations.detection import datasets as detection  # noqa: E402
from rebnn_mm.integrations.detection.voc_file import read_split  # noqa: E402

OBJECT = (
    "<object><name>disc</name>{}<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>"
)


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(detection, "print_log", lambda message, **kwargs: said.append(message))
    return said


@pytest.fixture
def voc(tmp_path):
    """Write a split list as bytes, pictures by name and one annotation for each id; build the data set."""

    def build(ids, pictures, split=None, difficult="", filename="", boxes=True, **options):
        base = tmp_path / "VOC2007"
        for name in pictures:
            path = base / "JPEGImages" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            suffix = path.suffix.lower()
            encoded = cv2.imencode(suffix, np.full((60, 80, 3), len(name), np.uint8))[1]
            path.write_bytes(encoded.tobytes())
        for name in ids:
            path = base / "Annotations" / f"{name}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            named = f"<filename>{filename}</filename>" if filename else ""
            path.write_text(
                f"<annotation>{named}<size><width>80</width><height>60</height></size>"
                f"{OBJECT.format(difficult) if boxes else ''}</annotation>"
            )
        base.mkdir(exist_ok=True)
        (base / "train.txt").write_bytes("\n".join(ids).encode() if split is None else split)
        config = dict(
            type="CheckedVOCDataset",
            _scope_="mmdet",
            data_root=f"{tmp_path}/",
            ann_file="VOC2007/train.txt",
            data_prefix=dict(sub_data_root="VOC2007/"),
            metainfo=dict(classes=("disc",)),
            pipeline=[dict(type="LoadCheckedImage"), dict(type="LoadAnnotations", with_bbox=True)],
        )
        return DATASETS.build({**config, **options})

    return build


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jpeg", "a.bmp", "a.webp", "a.TIF", "a.jpg"])
@pytest.mark.parametrize("test_mode", [False, True])
def test_a_picture_is_found_whatever_its_suffix(voc, name, test_mode):
    dataset = voc(["a"], [name, "other.jpg"], test_mode=test_mode)
    assert dataset[0]["img_path"].endswith(f"JPEGImages/{name}") and dataset[0]["img"].shape == (60, 80, 3)


@pytest.mark.slow
def test_filename_decides_among_several_and_names_a_picture_of_another_stem(voc):
    assert voc(["a"], ["a.png", "a.jpg"])[0]["img_path"].endswith("a.jpg")
    assert voc(["a"], ["a.png", "a.jpg"], filename="a.png")[0]["img_path"].endswith("a.png")
    assert voc(["b"], ["c.png"], filename=r"C:\photos\c.png")[0]["img_path"].endswith("c.png")
    # a file renamed later keeps the old name in the XML: the id decides
    assert voc(["d"], ["d.png"], filename="c.png")[0]["img_path"].endswith("d.png")


@pytest.mark.slow
def test_an_id_with_a_folder_or_without_a_picture(voc):
    assert voc(["cam/a"], ["cam/a.png"])[0]["img_path"].endswith("JPEGImages/cam/a.png")
    with pytest.raises(FileNotFoundError, match=r"image .*nopicture.jpg, which the data set lists, is missing"):
        voc(["nopicture"], [])[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "split",
    [
        b"\xef\xbb\xbfa\nb c\n",  # a byte-order mark
        b"a\r\nb c\r\n\r\n",
        b"  a \n\n\tb c  \n \n",
        b"a 1\nb c -1\n",  # a list by class
        b"a  0\nb c   1",
        b"a.jpg\nb c.PNG",
        "a\nb c\n".encode("utf-16"),
    ],
)
def test_lists_as_tools_write_them(voc, warnings, split):
    dataset = voc(["a", "b c"], ["a.jpg", "b c.png"], split)
    assert [dataset.get_data_info(i)["img_id"] for i in range(len(dataset))] == ["a", "b c"]
    assert warnings == []


@pytest.mark.slow
def test_a_number_may_belong_to_the_id(voc):
    assert voc(["a 1"], ["a 1.jpg"]).get_data_info(0)["img_id"] == "a 1"


@pytest.mark.slow
def test_ids_listed_twice_are_taken_once_and_said(voc, warnings):
    assert len(voc(["a", "b"], ["a.jpg", "b.jpg"], b"a\nb\na\n")) == 2
    assert "train.txt lists 1 id(s) more than once, taken once: a" in warnings[0]


def test_a_list_that_is_no_text(voc, tmp_path):
    (tmp_path / "list").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="is no list of image ids in UTF-8"):
        read_split(str(tmp_path / "list"), str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["<difficult>Unspecified</difficult>", "<difficult/>", "<difficult> </difficult>"])
def test_an_unclear_difficult_is_0_and_said(voc, warnings, text):
    dataset = voc(["a"], ["a.jpg"], difficult=text, filename="a.jpg")
    assert dataset.get_data_info(0)["instances"][0]["ignore_flag"] == 0
    assert "<difficult> of 1 object(s) is empty or Unspecified, taken as 0: a.jpg" in warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "flag"), [("0", 0), ("false", 0), ("1", 1), (" 1 ", 1), ("True", 1)])
def test_difficult_values(voc, text, flag):
    dataset = voc(["a"], ["a.jpg"], difficult=f"<difficult>{text}</difficult>", no_boxes="ignore")
    assert dataset.get_data_info(0)["instances"][0]["ignore_flag"] == flag


def test_an_odd_difficult_is_refused_by_its_name(voc):
    with pytest.raises(ValueError, match=r"a.xml is no usable VOC annotation: <difficult> is 'maybe'"):
        voc(["a"], ["a.jpg"], difficult="<difficult>maybe</difficult>")


@pytest.mark.slow
@pytest.mark.parametrize(("test_mode", "use"), [(False, "train on"), (True, "evaluate")])
def test_a_split_without_usable_boxes_is_refused(voc, test_mode, use):
    with pytest.raises(ValueError, match=f"train.txt leaves no box to {use}: all 1 are difficult, crowd or too small"):
        voc(["a"], ["a.jpg"], difficult="<difficult>1</difficult>", test_mode=test_mode)
    with pytest.raises(ValueError, match=f"train.txt leaves no box to {use}: no image has a usable one"):
        voc(["a"], ["a.jpg"], boxes=False, test_mode=test_mode)
    assert len(voc(["a"], ["a.jpg"], boxes=False, test_mode=test_mode, no_boxes="ignore")) == 1
    with pytest.raises(ValueError, match="no_boxes='drop' is not one of"):
        voc(["a"], ["a.jpg"], no_boxes="drop")


@pytest.mark.slow
@pytest.mark.parametrize(("test_mode", "effect"), [(False, "cannot be learnt"), (True, "left out of the evaluation")])
def test_a_class_without_boxes_is_said(voc, warnings, test_mode, effect):
    voc(["a"], ["a.jpg"], metainfo=dict(classes=("disc", "star")), test_mode=test_mode)
    assert effect in warnings[0] and warnings[0].endswith("['star']")


@pytest.mark.parametrize(
    ("classes", "reason"),
    [("disc", r"is a text: write a tuple, with a comma: classes=\('disc',\)"), (("disc", "disc"), r"names \['disc'\]")],
)
def test_class_names_that_cannot_be_meant(voc, classes, reason):
    with pytest.raises(ValueError, match=reason):
        voc(["a"], ["a.jpg"], metainfo=dict(classes=classes))


@pytest.mark.slow
def test_a_missing_picture_folder(voc, tmp_path):
    voc(["a"], ["a.jpg"])
    shutil.rmtree(tmp_path / "VOC2007/JPEGImages")
    with pytest.raises(FileNotFoundError, match=r"a.jpg, which the data set lists, is missing"):
        voc(["a"], [])[0]
