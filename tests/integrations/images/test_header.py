import random
import warnings
from io import BytesIO

import pytest

pytest.importorskip("PIL")

from PIL import Image  # noqa: E402

from rebnn_mm.integrations.images.header import ImageHeader, is_cut_jpeg, kind_of, read_header  # noqa: E402


def picture(size=(64, 48)):
    return Image.effect_noise(size, 60).convert("RGB")


def encoded(kind="JPEG", orientation=None, thumbnail=False, **options):
    """Bytes of a picture; ``thumbnail`` puts a whole JPEG into the EXIF segment, as cameras do."""
    file = BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    if thumbnail:
        inner = BytesIO()
        picture((16, 12)).save(inner, "JPEG")
        exif[0x927C] = inner.getvalue()  # the maker's note
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture().save(file, kind, **({"exif": exif} if len(exif) else {}), **options)
    return file.getvalue()


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 1},
    "thumbnail": {"thumbnail": True},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_whole_jpeg_is_never_cut_whatever_follows_it(options):
    data, rng = encoded(**options), random.Random(0)
    for _ in range(50):
        assert not is_cut_jpeg(data + b"\0\0\0\x18ftypmp42" + rng.randbytes(20_000))
    assert not is_cut_jpeg(data + data)  # a second picture, as of a stereo camera


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_cut_anywhere_is_cut(options):
    data = encoded(**options)
    assert data.endswith(b"\xff\xd9")
    for end in (*range(2, len(data), 7), len(data) - 2, len(data) - 1):
        assert is_cut_jpeg(data[:end]), end
    assert is_cut_jpeg(data[: len(data) // 2] + bytes(1000))  # a download that reserved its space


def test_fill_bytes_before_a_marker_are_allowed():
    data = encoded()
    assert not is_cut_jpeg(data[:2] + b"\xff\xff" + data[2:-2] + b"\xff\xff\xff\xd9")


@pytest.mark.parametrize("data", [b"", b"\xff", b"no image", encoded("PNG")])
def test_other_bytes_are_no_cut_jpeg(data):
    assert not is_cut_jpeg(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_kind_by_the_first_bytes(kind):
    assert kind_of(encoded(kind)) == kind
    assert kind_of(b"nothing") is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_header_has_the_stored_and_the_upright_size(kind, orientation, tmp_path):
    (tmp_path / "a").write_bytes(encoded(kind, orientation))
    header = read_header(tmp_path / "a")
    assert header == ImageHeader(kind, (64, 48), orientation)
    assert header.upright == ((48, 64) if orientation >= 5 else (64, 48))


def test_odd_orientations_and_unreadable_files(tmp_path):
    assert read_header(encoded("JPEG", 0)).orientation == read_header(encoded("JPEG", 77)).orientation == 1
    assert read_header(b"no image") is None
    assert read_header(tmp_path / "absent.jpg") is None


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("color_type", ["color", "grayscale", "unchanged", "color_ignore_orientation"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_is_turned_by_says_what_mmcv_does(kind, color_type, backend):
    mmcv = pytest.importorskip("mmcv")
    data = encoded(kind, 6)
    if kind == "TIFF" and backend == "pillow":
        pytest.skip("Pillow turns a TIFF twice or once, by version")
    image = mmcv.imfrombytes(data, flag=color_type, backend=backend)
    header = read_header(data)
    turned = header.is_turned_by(color_type, backend)
    assert image.shape[1::-1] == (header.upright if turned else header.stored)
