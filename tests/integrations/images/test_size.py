"""Annotations held against their pictures, in VOC's and COCO's format: sizes and EXIF orientations."""

import json

import numpy as np
import pytest

pytest.importorskip("mmdet")

from mmdet.registry import DATASETS  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402

from rebnn_mm.integrations.detection import datasets as detection
from rebnn_mm.integrations.images import size as picture_size  # noqa: E402

STORED = (100, 60)
BOX = (70, 10, 90, 20)  # of a white bar in the stored pixels
STORED_LOADER = dict(type="LoadCheckedImage", color_type="color_ignore_orientation")


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(detection, "print_log", lambda message, **kwargs: said.append(message))
    return said


def photo(path, orientation, size=STORED, **options):
    """A photo with a bar at BOX of its stored pixels; returns size and box of the upright picture."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("L")) > 128
    rows, columns = np.flatnonzero(upright.any(1)), np.flatnonzero(upright.any(0))
    box = tuple(int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return upright.shape[::-1], box


@pytest.fixture(params=["voc", "coco"])
def build(request, tmp_path):
    """Write one image's annotation in the format, and build the data set over it."""
    folder = tmp_path / ("VOC2007/JPEGImages" if request.param == "voc" else "images")
    folder.mkdir(parents=True)

    def write(size, box, loader=None, count=1, suffix="jpg", **options):
        (w, h), (x1, y1, x2, y2) = size, box
        names = ["a", *(f"b{i}" for i in range(1, count))]
        if request.param == "voc":
            base = tmp_path / "VOC2007"
            for part in ("Annotations", "ImageSets"):
                (base / part).mkdir(exist_ok=True)
            for name in names:
                (base / f"Annotations/{name}.xml").write_text(
                    f"<annotation><filename>{name}.{suffix}</filename><size><width>{w}</width><height>{h}</height></size>"
                    f"<object><name>bar</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2 + 1}</xmax>"
                    f"<ymax>{y2 + 1}</ymax></bndbox></object></annotation>"
                )
            (base / "ImageSets/train.txt").write_text("\n".join(names))
            where = dict(
                type="CheckedVOCDataset",
                ann_file="VOC2007/ImageSets/train.txt",
                data_prefix=dict(sub_data_root="VOC2007/"),
            )
        else:
            images = [dict(id=i, file_name=f"{n}.{suffix}", width=w, height=h) for i, n in enumerate(names, 1)]
            box = dict(category_id=1, iscrowd=0, bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))
            content = dict(
                images=images,
                categories=[dict(id=1, name="bar")],
                annotations=[dict(id=i["id"], image_id=i["id"], **box) for i in images],
            )
            (tmp_path / "ann.json").write_text(json.dumps(content))
            where = dict(type="CheckedCocoDataset", ann_file="ann.json", data_prefix=dict(img="images/"))
        pipeline = [loader or dict(type="LoadCheckedImage"), dict(type="LoadAnnotations", with_bbox=True)]
        config = dict(data_root=f"{tmp_path}/", metainfo=dict(classes=("bar",)), pipeline=pipeline, _scope_="mmdet")
        return DATASETS.build({**where, **config, **options})

    write.folder = folder
    return write


def bar_is_in_its_box(entry):
    x1, y1, x2, y2 = (int(v) for v in np.asarray(entry["gt_bboxes"].tensor)[0])
    white = entry["img"][..., 0] > 128
    return white.sum() - white[y1:y2, x1:x2].sum() < 0.05 * white.sum() and white[y1:y2, x1:x2].mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_upright_picture_train_in_place(build, warnings, orientation):
    size, box = photo(build.folder / "a.jpg", orientation)
    dataset = build(size, box)
    assert bar_is_in_its_box(dataset[0])
    # where the size is the same both ways nothing tells, and that is said once
    assert len(warnings) == (orientation in (2, 3, 4))
    assert not warnings or ("a.jpg" in warnings[0] and "exif='upright'" in warnings[0])


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_of_the_stored_pixels_are_refused_or_said(build, warnings, orientation):
    photo(build.folder / "a.jpg", orientation)
    if orientation >= 5:
        with pytest.raises(ValueError, match=r"a.jpg is 60 x 100, but its annotation says 100 x 60: its EXIF tag"):
            build(STORED, BOX)
    else:
        build(STORED, BOX)
        assert "turned or mirrored by their EXIF tag" in warnings[0] and "color_ignore_orientation" in warnings[0]
        warnings.clear()
    dataset = build(STORED, BOX, STORED_LOADER)  # what the sentence says to do
    assert bar_is_in_its_box(dataset[0]) and warnings == []


def test_upright_boxes_with_a_loader_of_stored_pixels_are_refused(build):
    size, box = photo(build.folder / "a.jpg", 6)
    with pytest.raises(ValueError, match=r"was annotated as turned, but is read as stored"):
        build(size, box, STORED_LOADER)


@pytest.mark.slow
def test_exif_upright_says_how_the_photos_were_annotated(build, warnings):
    size, box = photo(build.folder / "a.jpg", 3)
    build(size, box, exif="upright")
    assert warnings == []
    with pytest.raises(ValueError, match=r"exif='raw' is not one of .*color_ignore_orientation"):
        build(size, box, exif="raw")


@pytest.mark.slow
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_square_photo_is_unsure(build, warnings, orientation):
    size, box = photo(build.folder / "a.png", orientation, (100, 100))
    assert bar_is_in_its_box(build(size, box, suffix="png")[0])
    assert "turned or mirrored" in warnings[0]


@pytest.mark.parametrize("orientation", [1, 3])
@pytest.mark.parametrize(
    ("size", "reason"),
    [((60, 100), "width and height exchanged"), ((200, 120), "wrong place"), ((50, 30), "wrong place")],
)
def test_other_sizes_are_refused_with_both_sizes(build, orientation, size, reason):
    photo(build.folder / "a.jpg", orientation)
    with pytest.raises(
        ValueError, match=rf"a.jpg is 100 x 60, but its annotation says {size[0]} x {size[1]}.*{reason}"
    ):
        build(size, (10, 10, 20, 20))


@pytest.mark.slow
def test_a_pixel_of_rounding_is_no_other_size(build, warnings):
    photo(build.folder / "a.jpg", 1)
    assert build((101, 59), BOX)[0]["img"].shape == (60, 100, 3) and warnings == []


@pytest.mark.slow
def test_images_beyond_the_sample_are_checked_when_they_are_loaded(build, monkeypatch):
    said = []
    monkeypatch.setattr(
        "rebnn_mm.integrations.images.loading.print_log", lambda message, **kwargs: said.append(message)
    )
    monkeypatch.setattr(picture_size, "HEADERS_READ", 2)
    for name in ("a", "b1", "b2", "b3"):
        photo(build.folder / f"{name}.jpg", 1)
    photo(build.folder / "b1.jpg", 1, (200, 120))
    photo(build.folder / "b3.jpg", 3)
    dataset = build(STORED, BOX, count=4)
    with pytest.raises(ValueError, match=r"b1.jpg is 200 x 120, but its annotation says 100 x 60"):
        dataset[1]
    dataset[3], dataset[3]
    assert len(said) == 1 and "b3.jpg" in said[0] and "turned or mirrored" in said[0]


@pytest.mark.slow
def test_an_image_changed_after_the_check_is_refused(build):
    photo(build.folder / "a.jpg", 1)
    dataset = build(STORED, BOX)
    photo(build.folder / "a.jpg", 6)
    with pytest.raises(ValueError, match=r"a.jpg is 60 x 100, but its annotation says 100 x 60: its EXIF tag"):
        dataset[0]


def test_classifiers_have_no_boxes_to_misplace(tmp_path):
    from mmengine.registry import TRANSFORMS

    photo(tmp_path / "a.jpg", 6)
    results = TRANSFORMS.build(dict(type="LoadCheckedImage"))(dict(img_path=str(tmp_path / "a.jpg"), gt_label=0))
    assert results["img"].shape == (100, 60, 3)
