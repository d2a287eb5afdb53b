"""Any image as a picture, and names that do not overwrite each other."""

from pathlib import PurePath

import numpy as np
import pytest

pytest.importorskip("mmcv")

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.images.pictures import PictureNames, as_picture, picture_name, refuse_to_replace


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
    paths = [str(tmp_path / kind / "0.jpg") for kind in "ab"]
    refuse_to_replace(paths, tmp_path / "pictures")
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        with pytest.raises(UserError, match="would replace the image .*0.jpg: give another folder"):
            refuse_to_replace(paths, folder)


def test_what_cannot_hold_colours_is_written_as_png():
    for name, picture in (("a.JPG", "a.JPG"), ("a.pgm", "a.pgm.png"), ("a.npy", "a.npy.png")):
        assert picture_name(PurePath("x", name)) == PurePath("x", picture)
