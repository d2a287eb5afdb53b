"""A COCO annotation file, checked for what training and pycocotools need of it, before either runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

from mmdet.datasets.api_wrappers import COCO

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.images.size import first_names


@dataclass(frozen=True)
class CocoFile:
    """An opened annotation file.

    ``mended`` says what was put right in memory, one sentence each: pycocotools by itself would fail on it or
    compute a wrong metric. ``notes`` says what is odd and harmless.
    """

    api: COCO
    mended: tuple[str, ...]
    notes: tuple[str, ...]


def open_coco(path: str, source: str) -> CocoFile:
    """Read, check, mend and index an annotation file.

    Args:
        path: Local file.
        source: Its name in sentences.

    Raises:
        ValueError: No COCO file, ids that are missing, repeated or no ids, a picture listed twice, flags that are
            neither 0 nor 1, boxes that are not four numbers.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            data = json.load(file)
        if not isinstance(data, dict):
            raise ValueError(f"it holds a {type(data).__name__}, not an object with images, annotations, categories")
        for category in data.setdefault("categories", []):
            category["name"], category["id"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source} is no usable COCO annotation file: {error!r}") from error
    # a file of a test set has no annotations
    images, annotations = data.setdefault("images", []), data.setdefault("annotations", [])
    if not images:
        raise UserError(f"{source} lists no image: there is nothing to train or test on")
    _check_ids(images, "image", source)
    _check_ids(annotations, "annotation", source)
    _check_ids(data["categories"], "category", source)
    _check_pictures(images, source)
    notes = _check_owners(images, annotations, source)
    _check_flags(annotations, source)
    _check_boxes(annotations, source)
    notes += _drop_groups(data, source)
    mended = _mend(annotations, source)
    api = COCO()
    api.dataset = data
    api.createIndex()
    api.img_ann_map, api.cat_img_map = api.imgToAnns, api.catToImgs
    return CocoFile(api, tuple(mended), tuple(notes))


def check_order(api: COCO, classes: Sequence[str], source: str) -> None:
    """Refuse categories that do not give the labels of ``classes``: mmdet numbers labels by the file's order.

    Raises:
        ValueError: A class is absent, or stands in another place.
    """
    names = [category["name"] for category in api.dataset["categories"]]
    absent = [name for name in classes if name not in names]
    if absent:
        raise UserError(f"{source} lacks the classes {absent} of metainfo; its categories are {names}")
    ordered = [name for name in names if name in classes]
    twice = [name for name, count in Counter(ordered).items() if count > 1]
    if twice:
        ids = [category["id"] for category in api.dataset["categories"] if category["name"] in twice]
        raise UserError(
            f"{source} has several categories named {twice} (ids {ids}), all with boxes: join or rename them"
        )
    if ordered != list(classes):  # it would show the wrong names
        raise UserError(f"{source} orders its categories {ordered}: write metainfo.classes in that order")


def check_masks(api: COCO, source: str) -> None:
    """Refuse annotations without a segmentation, which masks are trained on and evaluated against.

    Raises:
        ValueError: At least one has none.
    """
    annotations = api.dataset["annotations"]
    without = [a["id"] for a in annotations if not a.get("segmentation")]
    if without:
        raise UserError(
            f"{source}: {len(without)} of {len(annotations)} annotations have no segmentation (ids "
            f"{', '.join(map(str, without[:3]))} ...), and masks are asked for: add them, or train and evaluate boxes "
            "only (with_mask=False, metric='bbox')"
        )


def _check_ids(entries: list[Any], kind: str, source: str) -> None:
    """Every entry has an id of its own."""
    try:
        ids = [entry["id"] for entry in entries]
    except (KeyError, TypeError) as error:
        raise UserError(f"{source}: a(n) {kind} has no usable id ({error!r}): number them 1, 2, 3, ...") from error
    for number, value in enumerate(ids, 1):
        _check_id(value, f"{kind} no. {number} of the file", "id", source)
    counts = Counter(ids)
    twice = [str(value) for value, count in counts.items() if count > 1]
    if twice:
        raise UserError(
            f"{source}: {len(twice)} {kind} id(s) occur more than once ({first_names(twice)}), as when files were "
            f"joined: give every {kind} an id of its own"
        )


def _check_id(value: Any, entry: str, key: str, source: str) -> None:
    if isinstance(value, (list, dict)):  # what JSON has and Python cannot look up
        raise UserError(f"{source}: {entry} has {key} {value!r}: an id is one number or one text, correct it")


def _check_pictures(images: list[dict], source: str) -> None:
    """One entry for a picture: two would each have a part of its boxes, and the rest would be background."""
    counts = Counter(image["file_name"] for image in images if "file_name" in image)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UserError(
            f"{source} lists {len(twice)} picture(s) more than once, under several image ids ({first_names(twice)}): "
            "join the entries of a picture and their annotations"
        )
    for image in images:
        width, height = image.get("width"), image.get("height")
        if not all(isinstance(side, Real) and side > 0 for side in (width, height)):
            raise UserError(f"{source}: the size of {image.get('file_name', image['id'])} is {width} x {height}")


def _check_owners(images: list[dict], annotations: list[dict], source: str) -> list[str]:
    """Annotations belong to images; a cut-down list of images with all annotations is common and harmless."""
    known = {image["id"] for image in images}
    try:
        for annotation in annotations:
            for key in ("image_id", "category_id"):
                _check_id(annotation[key], f"annotation {annotation['id']}", key, source)
    except KeyError as error:
        raise UserError(f"{source}: an annotation is incomplete: it has no {error}") from error
    lost = [str(a["image_id"]) for a in annotations if a["image_id"] not in known]
    if lost and len(lost) == len(annotations):
        ids = ", ".join(repr(image["id"]) for image in images[:3])
        raise UserError(
            f"{source}: not one of its {len(lost)} annotations belongs to an image: image_id is "
            f"{annotations[0]['image_id']!r}, the images' ids are {ids} ... (a number is not a text)"
        )
    return (
        [
            f"{source}: {len(lost)} annotation(s) of images that it does not list are left out: image ids "
            f"{first_names(lost)}"
        ]
        if lost
        else []
    )


def _check_flags(annotations: list[dict], source: str) -> None:
    """Refuse flags that only look like 0: mmdet and pycocotools take the text ``"0"`` for a yes."""
    for annotation in annotations:
        for key in ("iscrowd", "ignore"):
            if annotation.get(key) not in (None, 0, 1):
                raise UserError(
                    f"{source}: annotation {annotation['id']} has {key} {annotation[key]!r}: write 0 or 1, as a number "
                    "without quotes"
                )


def _check_boxes(annotations: list[dict], source: str) -> None:
    """Refuse NaN and infinity, too: mmdet would drop the box, pycocotools would evaluate it."""
    for annotation in annotations:
        box = annotation.get("bbox") or [0, 0, 0, 0]  # annotations of masks alone have none
        numbers = isinstance(box, list) and all(isinstance(side, Real) and isfinite(side) for side in box)
        if not numbers or len(box) != 4:
            raise UserError(
                f"{source}: annotation {annotation['id']} has a box {box!r}, and a box is four finite numbers, [x, y, "
                "width, height]: correct or remove it"
            )


def _drop_groups(data: dict, source: str) -> list[str]:
    """Leave out unused categories whose name another one has, such as the group that Roboflow writes first.

    mmdet looks categories up by name, and would count such a class twice.
    """
    used = {annotation["category_id"] for annotation in data["annotations"]}
    categories = data["categories"]
    kept: list[dict] = []
    for index, category in enumerate(categories):
        others = [c for c in categories[index + 1 :] + kept if c["name"] == category["name"]]
        if not (others and category["id"] not in used):
            kept.append(category)
    left = [category for category in categories if category not in kept]
    data["categories"] = kept
    return [f"{source}: unused category {c['name']!r} (id {c['id']}) repeats a name and is left out" for c in left]


def _mend(annotations: list[dict], source: str) -> list[str]:
    """Put right what can only mean one thing; pycocotools would fail on it, or count wrongly."""
    mended = []
    without = [a for a in annotations if a.get("iscrowd") is None]
    if without:
        mended.append(f"{source}: {len(without)} annotation(s) have no iscrowd; taken as 0 (one object)")
    for annotation in without:
        annotation["iscrowd"] = 0
    flat = [a for a in annotations if not _is_positive(a.get("area")) and _box_area(a) > 0]
    if flat:
        mended.append(f"{source}: {len(flat)} annotation(s) have no area or area 0; taken from their boxes")
    for annotation in flat:
        annotation["area"] = _box_area(annotation)
    odd = [a for a in annotations if type(a["id"]) is not int or a["id"] < 1]
    if odd:
        mended.append(
            f"{source}: {len(odd)} annotation id(s) below 1 or no whole number (pycocotools takes id 0 for 'no "
            "match'); annotations are numbered anew from 1"
        )
        for number, annotation in enumerate(annotations, 1):
            annotation["id"] = number
    return mended


def _is_positive(value: Any) -> bool:
    return isinstance(value, Real) and value > 0


def _box_area(annotation: dict) -> float:
    """0 where the box is absent or odd: that is said where it is read."""
    box = annotation.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(side, Real) for side in box)):
        return 0.0
    return float(max(box[2], 0) * max(box[3], 0))
