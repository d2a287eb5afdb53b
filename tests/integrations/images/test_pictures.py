"""Any image as a picture, and names that do not overwrite each other."""

import errno
from pathlib import Path, PurePath

import numpy as np
import pytest

pytest.importorskip("mmcv")

from PIL import Image

from rebnn_mm.errors import UserError, UserFileError
from rebnn_mm.integrations.images.pictures import (
    PictureNames,
    as_picture,
    build_visualizer,
    draw_boxes,
    draw_label,
    picture_name,
    refuse_to_replace,
)


def one(value, kind):
    """One pixel, (1, 1, C)."""
    return np.array(value, kind).reshape(1, 1, -1)


@pytest.mark.parametrize(
    ("image", "order", "rgb"),
    [
        (one([1, 2, 3], np.uint8), "rgb", (1, 2, 3)),
        (one([1, 2, 3], np.uint8), "bgr", (3, 2, 1)),
        (one([1, 2, 3, 4], np.uint8), "bgr", (3, 2, 1)),
        (one([7], np.uint8), "bgr", (7, 7, 7)),
        (np.full((1, 1), 7, np.uint8), "rgb", (7, 7, 7)),
        (one([7, 9], np.uint8), "rgb", (7, 7, 7)),
        (one(range(1, 14), np.uint8), "bgr", (1, 2, 3)),
        (one([300, 128, -20], np.float32), "rgb", (255, 128, 0)),  # as after colour jitter
        (one([0, 0.5, 1], np.float32), "rgb", (0, 127, 255)),
        (one([0, 32767.5, 65535], np.float32), "rgb", (0, 127, 255)),
        (one([0, 30000, 60000], np.uint16), "rgb", (0, 127, 255)),
        (one([-2, 0, 2], np.float64), "rgb", (0, 127, 255)),  # normalized
        (one([np.nan, 128, 200], np.float32), "rgb", (0, 128, 200)),
    ],
)
def test_any_image_becomes_a_picture(image, order, rgb):
    picture = as_picture(image, order)
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous
    assert tuple(picture[0, 0].tolist()) == rgb


def test_pictures_of_equal_names_do_not_overwrite_each_other():
    paths = ["/d/cam0/1.jpg", "/d/cam1/1.jpg", "/d/cam1/x/2.npy"]
    names = PictureNames(paths)
    assert [str(names(path)) for path in paths] == ["cam0/1.jpg", "cam1/1.jpg", "cam1/x/2.npy.png"]
    assert str(names(paths[0])) == "cam0/1_2.jpg"  # the same image again: a tile, or a repeated data set
    assert str(names("/elsewhere/3.jpg")) == "elsewhere/3.jpg"


def test_pictures_of_one_folder_lie_in_one_folder():
    names = PictureNames(["/d/JPEGImages/1.jpg"])
    assert names("/d/JPEGImages/1.jpg") == PurePath("1.jpg")


def test_remote_and_local_paths_share_no_folder():
    names = PictureNames(["s3://bucket/a/1.jpg", "/d/a/1.jpg"])
    assert str(names("s3://bucket/a/1.jpg")) == "s3/bucket/a/1.jpg"
    assert str(names("/d/a/1.jpg")) == "d/a/1.jpg"


def test_images_are_not_replaced_by_their_pictures(tmp_path):
    def pairs(folder):
        return [(str(tmp_path / kind / "0.jpg"), folder / kind / "0.jpg") for kind in "ab"]

    refuse_to_replace(pairs(tmp_path / "pictures"))
    refuse_to_replace([("s3://bucket/0.jpg", tmp_path / "0.jpg")])
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        with pytest.raises(UserError, match="would replace the image .*0.jpg: give another folder"):
            refuse_to_replace(pairs(folder))


def test_what_cannot_hold_colours_is_written_as_png():
    for name, picture in (("a.JPG", "a.JPG"), ("a.pgm", "a.pgm.png"), ("a.npy", "a.npy.png")):
        assert picture_name(PurePath("x", name)) == PurePath("x", picture)


def draw(kind, image, file):
    """Draw a label or no box into an image."""
    if kind == "label":
        pytest.importorskip("mmpretrain")
        from mmpretrain.structures import DataSample

        draw_label(build_visualizer("mmpretrain", {"classes": ("a",)}), image, DataSample().set_gt_label(0), file)
    else:
        pytest.importorskip("mmdet")
        from mmdet.structures import DetDataSample

        draw_boxes(build_visualizer("mmdet", {"classes": ("a",)}), image, DetDataSample(), file, draw_gt=False)


KINDS = pytest.mark.parametrize("kind", ["label", "boxes"])


@KINDS
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_has_the_colours_of_its_image(tmp_path, kind, suffix):
    image = np.full((300, 320, 3), (200, 60, 10), np.uint8)
    draw(kind, image, tmp_path / "new" / f"a{suffix}")
    drawn = np.asarray(Image.open(tmp_path / "new" / f"a{suffix}").convert("RGB"))
    assert drawn.shape == image.shape and drawn[250, 300] == pytest.approx((200, 60, 10), abs=3)


@KINDS
def test_a_full_disk_leaves_the_old_picture_and_a_sentence(tmp_path, kind, monkeypatch):
    file = tmp_path / "a.png"
    file.write_bytes(b"old")

    def full(path, data):
        with open(path, "wb") as part:
            part.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserFileError, match="cannot write .*a.png: No space left on device"):
        draw(kind, np.zeros((300, 300, 3), np.uint8), file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"] and file.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((32, 32), (224, 224)),
        ((100, 300), (224, 672)),
        ((300, 400), (300, 400)),
        ((1, 3000), (224, 3000)),  # a strip, with grey below
        ((3000, 1), (3000, 224)),
        ((4, 512), (224, 2048)),
    ],
)
def test_labels_have_room(tmp_path, size, drawn):
    draw("label", np.zeros((*size, 3), np.uint8), tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == drawn[::-1]


@KINDS
def test_what_is_too_long_to_draw_is_refused(tmp_path, kind):
    with pytest.raises(UserError, match="70000 x 1 pixels cannot be drawn: cut or shrink it to 65,535 on a side"):
        draw(kind, np.zeros((1, 70000, 3), np.uint8), tmp_path / "a.png")


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match="20000 x 8 pixels cannot be written as .webp: make the image smaller"):
        draw("boxes", np.zeros((8, 20000, 3), np.uint8), tmp_path / "a.webp")
