"""What an image file says before it is decoded: its kind, size and EXIF orientation, and whether it ends early."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

Size = tuple[int, int]  # width, height

_ORIENTATION = 0x0112  # EXIF tag
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)
_STARTS = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"RIFF", "WebP"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"GIF8", "GIF"),
)
_MARKER = re.compile(rb"\xff+([^\x00\xff])")  # any number of 0xFF may stand before a marker
_ALONE = frozenset([0x01, *range(0xD0, 0xD9)])  # markers without a length
_END, _SCAN = 0xD9, 0xDA


@dataclass(frozen=True)
class ImageHeader:
    """Header of an image file.

    ``stored`` is the size of the pixels in the file; ``orientation`` is EXIF's, 1 (upright) to 8, where 2 to 4 mirror
    or turn by 180 degrees and 5 to 8 exchange width and height. ``kind`` is Pillow's name of the format.
    """

    kind: str
    stored: Size
    orientation: int

    @property
    def upright(self) -> Size:
        """Size of the picture as a viewer shows it."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored

    def is_turned_by(self, color_type: str, backend: str | None) -> bool:
        """Whether mmcv turns the picture upright when it decodes it (measured: mmcv 2.3, OpenCV 4.12, Pillow 12)."""
        if backend in ("turbojpeg", "tifffile"):
            return False
        if self.kind == "TIFF":
            return True  # by libtiff, whatever the flag
        if color_type == "unchanged" or color_type.endswith("ignore_orientation"):
            return False
        return backend == "pillow" or self.kind in ("JPEG", "MPO", "PNG")


def read_header(source: str | Path | bytes) -> ImageHeader | None:
    """Header of a file or of its bytes, about 0.1 ms; None where it cannot be read (decoding says what is wrong)."""
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
            kind, size = str(image.format), image.size
    except _UNREADABLE:
        return None
    if orientation not in range(1, 9):
        orientation = 1
    # Pillow gives a TIFF's size turned already
    return ImageHeader(kind, size[::-1] if kind == "TIFF" and orientation >= 5 else size, int(orientation))


def kind_of(data: bytes) -> str | None:
    """Name of the format by the file's first bytes."""
    return next((name for start, name in _STARTS if data.startswith(start)), None)


def is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG ends before its end-of-image marker.

    Segments are walked by their lengths up to the first scan, so that the markers of an embedded thumbnail are passed
    over. In the pixels that follow, a 0xFF stands before 0x00 or a restart marker only, so that the first end marker
    is the picture's: what comes after it (a phone's clip, a second picture) is not looked at. Other formats give False.
    """
    if kind_of(data) != "JPEG":
        return False
    at = 2
    while at < len(data):
        found = _MARKER.search(data, at)
        if not found:
            return True
        marker, at = found.group(1)[0], found.end()
        if marker == _END:
            return False
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        # a damaged length: what follows is searched for the next marker instead
        at += length if length >= 2 else 0
        if marker == _SCAN:
            return data.find(bytes((0xFF, _END)), at) < 0
    return True
