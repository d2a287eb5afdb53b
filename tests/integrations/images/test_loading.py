import struct
import zlib

import cv2
import numpy as np
import pytest

pytest.importorskip("mmcv")

from mmengine.registry import TRANSFORMS  # noqa: E402

from rebnn_mm.integrations.images.loading import require_data  # noqa: E402


def load(path, **kwargs):
    return TRANSFORMS.build(dict(type="LoadCheckedImage", **kwargs))(dict(img_path=str(path)))


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def test_reads_as_mmcv_does(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    results = load(tmp_path / "a.png")
    assert np.array_equal(results["img"], picture)
    assert results["img_shape"] == results["ori_shape"] == (40, 60)
    assert load(tmp_path / "a.png", to_float32=True)["img"].dtype == np.float32


def test_gray_scale_gets_three_channels(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "g.jpg"), picture[..., 0])
    assert load(tmp_path / "g.jpg")["img"].shape == (40, 60, 3)


def test_missing_image(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image .*nothing.jpg, which the data set lists, is missing"):
        load(tmp_path / "nothing.jpg")


@pytest.mark.parametrize(
    "content, message", [(b"", "is an empty file"), (b"no image at all", "cannot be decoded: 15 bytes")]
)
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
def test_undecodable_image(tmp_path, content, message, backend):
    (tmp_path / "bad.jpg").write_bytes(content)
    if backend == "pillow" and content:
        message = "cannot be decoded"
    with pytest.raises(ValueError, match=f"image .*bad.jpg {message}"):
        load(tmp_path / "bad.jpg", imdecode_backend=backend)
    assert load(tmp_path / "bad.jpg", ignore_empty=True) is None


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.99])
def test_truncated_jpeg(tmp_path, picture, progressive, share):
    path = tmp_path / "cut.jpg"
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])
    whole = path.read_bytes()
    load(path)
    path.write_bytes(whole + b"\0trailing bytes of a camera")
    load(path)
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"cut.jpg is a truncated JPEG"):
        load(path)


def test_broken_png(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\x10IDAT")
    with pytest.raises(ValueError, match=r"bad.png cannot be decoded"):
        load(tmp_path / "bad.png")


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.4, 0.99])
def test_other_kinds_cut_short_are_named(tmp_path, picture, suffix, share):
    path = tmp_path / f"cut{suffix}"
    cv2.imwrite(str(path), picture)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        ValueError, match=rf"cut{suffix} cannot be decoded: \d+ bytes, a broken or truncated (PNG|WebP|B|T)"
    ):
        load(path)


def test_require_data(tmp_path, monkeypatch):
    require_data(tmp_path, "the data set")
    require_data("s3://bucket/data", "the data set")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        require_data("data/VOCdevkit", "the VOC data set")
    message = str(caught.value)
    assert f"the VOC data set is not at {tmp_path}/data/VOCdevkit" in message
    assert "make_demo_data.py" in message and "--cfg-options" in message and "\n" not in message
