"""Files of a data set in VOC's layout, as many tools write them: split lists, pictures, the difficult flag."""

from __future__ import annotations

import codecs
import os
import xml.etree.ElementTree as ET
from collections import Counter

from mmengine import fileio

from rebnn_mm.errors import UserError
from rebnn_mm.files.images import IMAGE_SUFFIXES

_NOT_DIFFICULT = ("", "0", "unspecified", "false", "no")
_DIFFICULT = ("1", "true", "yes")


def read_split(path: str, annotations: str, backend_args: dict | None = None) -> tuple[list[str], list[str]]:
    """Image ids of a split list, each once, and the ids that it names several times.

    Blank lines, a byte-order mark, Windows' line ends and UTF-16 (PowerShell's ``>``) are taken. Of a list by class,
    ``ID 1`` or ``ID -1``, the ids are taken: an image without the class is background, with all its boxes.

    Args:
        path: The list.
        annotations: Folder of the XML files, which decides what belongs to an id with blanks or a suffix.
        backend_args: As in mmdet's data sets.

    Raises:
        ValueError: It is no text.
    """
    data = fileio.get(path, backend_args=backend_args)
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no list of image ids in UTF-8: {error}") from error
    counts = Counter(_image_id(line.strip(), annotations) for line in text.splitlines() if line.strip())
    return list(counts), [name for name, count in counts.items() if count > 1]


def _image_id(line: str, annotations: str) -> str:
    def exists(name: str) -> bool:
        return os.path.exists(os.path.join(annotations, f"{name}.xml"))

    words = line.split()
    if len(words) > 1 and words[-1] in ("1", "0", "-1") and not exists(line):
        line = line[: -len(words[-1])].rstrip()
    stem, suffix = os.path.splitext(line)
    return stem if suffix.lower() in IMAGE_SUFFIXES and exists(stem) and not exists(line) else line


class PictureFinder:
    """Finds the picture of an annotation whatever its suffix: by its id, else by ``<filename>``."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, list[str]]] = {}

    def __call__(self, folder: str, image_id: str, xml: str) -> str:
        """File name under ``folder``, with the id's subfolder; ``ID.jpg`` where there is none (loading says so)."""
        if "://" in folder:
            return f"{image_id}.jpg"
        below, stem = os.path.split(image_id)
        names = self._names(os.path.join(folder, below))
        found = names.get(stem, [])
        if len(found) != 1:
            named = _filename(xml)
            if named in names.get(os.path.splitext(named)[0], []):
                found = [named]
        name = next((name for name in found if name.endswith(".jpg")), found[0] if found else f"{stem}.jpg")
        return os.path.join(below, name)

    def _names(self, folder: str) -> dict[str, list[str]]:
        """Names of pictures by their stem."""
        if folder not in self._folders:
            by_stem: dict[str, list[str]] = {}
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in IMAGE_SUFFIXES:
                    by_stem.setdefault(stem, []).append(name)
            self._folders[folder] = by_stem
        return self._folders[folder]


def _filename(xml: str) -> str:
    try:
        text = ET.parse(xml).findtext("filename") or ""
    except (OSError, ET.ParseError):  # said when the annotation is read
        return ""
    return text.strip().replace("\\", "/").rsplit("/", 1)[-1]


def mend_difficult(objects: list[ET.Element]) -> int:
    """Write ``<difficult>`` as 0 or 1; how many had no number (LabelImg's and CVAT's Unspecified, or nothing).

    Raises:
        ValueError: A value that says neither.
    """
    unclear = 0
    for element in (obj.find("difficult") for obj in objects):
        if element is None:
            continue
        text = (element.text or "").strip()
        if text.lower() in _NOT_DIFFICULT:
            unclear += text != "0"
            element.text = "0"
        elif text.lower() in _DIFFICULT:
            element.text = "1"
        else:
            raise ValueError(f"<difficult> is {text!r}, which is neither 0 nor 1")
    return unclear
