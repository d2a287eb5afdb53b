"""Annotations are held against their pictures: sizes exchanged or scaled, photos turned by EXIF.

Detectors take the boxes as they are written, whatever the picture's size: where the two do not fit, a detector
trains on the wrong places without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.transforms import LoadImageFromFile

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.images.header import ImageHeader, Size, read_header

EXIF = ("warn", "upright")
# Headers read before training, about 0.1 ms each on a local disk; every image is checked when it is loaded.
HEADERS_READ = 2000
_ROUNDING = 2  # pixels by which a size may differ
_IGNORE = "color_type='color_ignore_orientation' in LoadCheckedImage of every pipeline"


def check_pictures(data_list: Sequence[dict], transforms: Sequence[Any], exif: str) -> list[str]:
    """Hold annotated sizes against the headers of up to :data:`HEADERS_READ` images, spread over the list.

    Entries that are left out, and whose EXIF tag matters, get ``exif_unchecked=True`` for the loader.

    Args:
        data_list: Entries with ``img_path``, ``width`` and ``height``.
        transforms: The data set's pipeline, whose loader decides whether photos are turned.
        exif: One of :data:`EXIF`.

    Returns:
        Paths of photos turned by EXIF without a change of size, where nothing tells how they were annotated.

    Raises:
        ValueError: A picture and its annotation do not fit.
    """
    color_type, backend = _how_read(transforms)
    asked = exif == "warn" and not _ignores(color_type)
    step = max(1, -(-len(data_list) // HEADERS_READ))
    unsure = []
    for index, entry in enumerate(data_list):
        if index % step:
            if asked:
                entry["exif_unchecked"] = True
            continue
        path = entry["img_path"]
        header = None if "://" in path else read_header(path)
        if header is None:  # the loader says what is wrong with it
            continue
        turned = header.is_turned_by(color_type, backend)
        misfit = explain_misfit(path, (entry["width"], entry["height"]), header, turned)
        if misfit:
            raise UserError(misfit)
        if asked and is_unsure(header):
            unsure.append(path)
    return unsure


def is_unsure(header: ImageHeader) -> bool:
    """Whether EXIF turns or mirrors the picture, and its size does not tell on which picture boxes were drawn."""
    return header.orientation != 1 and fits(header.stored, header.upright)


def unsure_warning(source: str, names: Sequence[str]) -> str:
    """What to say about photos of which :func:`is_unsure` is true."""
    return (
        f"{source}: {len(names)} photo(s) are turned or mirrored by their EXIF tag without a change of size: "
        f"{first_names(names)}. They are read upright, and their boxes must have been drawn so: if they were, the data "
        f"set's exif='upright' says it; if they were drawn on the pixels as stored, set {_IGNORE}"
    )


def explain_misfit(path: str, annotated: Size, header: ImageHeader, turned: bool) -> str | None:
    """One sentence when the picture as it is read has another size than its annotation says; None when they fit.

    Args:
        path: For the sentence.
        annotated: (width, height) of the annotation.
        header: Of the picture.
        turned: Whether the loader turns it upright.
    """
    read, other = (header.upright, header.stored) if turned else (header.stored, header.upright)
    if fits(annotated, read):
        return None
    says = f"image {path} is {_text(read)}, but its annotation says {_text(annotated)}"
    if header.orientation != 1 and fits(annotated, other):
        if turned:
            return (
                f"{says}: its EXIF tag (orientation {header.orientation}) turns it, and it was annotated before "
                f"turning; set {_IGNORE}, or take the tag away (exiftool -Orientation= FILE)"
            )
        return (
            f"{says}: its EXIF tag (orientation {header.orientation}) turns it, and it was annotated as turned, but is "
            "read as stored; let LoadCheckedImage turn it (color_type='color'; JPEG and PNG), or turn the file itself"
        )
    if fits(annotated[::-1], read):
        return (
            f"{says}, width and height exchanged: exchange the two in the annotation, or put the picture there that "
            "was annotated if it was turned since"
        )
    return (
        f"{says}: its boxes would be at the wrong place; scale boxes and size in the annotation to the picture (if "
        "only the size is wrong, correct it), or put the pictures there that were annotated"
    )


def fits(one: Size, other: Size) -> bool:
    """Equal, or off by what rounding does."""
    return all(abs(a - b) <= _ROUNDING for a, b in zip(one, other, strict=True))


def first_names(names: Sequence[str]) -> str:
    """The first three different names, and how many more there are."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return ", ".join(different[:3]) + more


def one_of_exif(value: str) -> str:
    """``value``, if it is one of :data:`EXIF`."""
    if value not in EXIF:
        raise UserError(f"exif={value!r} is not one of {EXIF}; boxes for pixels as stored: {_IGNORE}")
    return value


def _how_read(transforms: Sequence[Any]) -> tuple[str, str | None]:
    loader = next((step for step in transforms if isinstance(step, LoadImageFromFile)), None)
    return ("color", "cv2") if loader is None else (loader.color_type, loader.imdecode_backend)


def _ignores(color_type: str) -> bool:
    return color_type == "unchanged" or color_type.endswith("ignore_orientation")


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
