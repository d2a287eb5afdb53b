"""Boxes of a detection data set: clipped, dropped, counted by class, with what is to be said about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.images.size import first_names


class BoxCheck:
    """Clips boxes to their image and drops those with no area left; remembers what it did."""

    def __init__(self) -> None:
        self.dropped: list[str] = []
        self.clipped: list[str] = []

    def __call__(self, instances: list[dict], width: int, height: int, source: str) -> list[dict]:
        """The instances to keep; boxes are (x1, y1, x2, y2) in pixels of a ``width`` x ``height`` image."""
        kept = []
        for instance in instances:
            x1, y1, x2, y2 = box = instance["bbox"]
            clipped = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
            if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
                self.dropped.append(source)
                continue
            # One pixel is rounding, or VOC's count from one read as a count from zero: clipped, not reported.
            if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > 1:
                self.clipped.append(source)
            kept.append({**instance, "bbox": clipped})
        return kept

    def warnings(self, ann_file: str) -> list[str]:
        """One warning for each kind, with the first files."""
        kinds = (
            (self.dropped, "without area (width or height <= 0, or outside the image) dropped"),
            (self.clipped, "reaching out of the image clipped to it"),
        )
        return [f"{ann_file}: {len(names)} box(es) {action}: {first_names(names)}" for names, action in kinds if names]


def check_split(data_list: Sequence[dict], classes: Sequence[str], ann_file: str, test_mode: bool) -> list[str]:
    """Refuse a split with no box to train or evaluate on; say which classes have none.

    Boxes that are difficult, crowd or below ``bbox_min_size`` do not count: they are neither learnt nor evaluated.

    Raises:
        ValueError: No box is left.
    """
    use = "evaluate" if test_mode else "train on"
    counts: Counter[int] = Counter()
    ignored = 0
    for entry in data_list:
        for instance in entry["instances"]:
            if instance["ignore_flag"]:
                ignored += 1
            else:
                counts[instance["bbox_label"]] += 1
    if not counts:
        why = f"all {ignored} are difficult, crowd or too small" if ignored else "no image has a usable one"
        raise UserError(
            f"{ann_file} leaves no box to {use}: {why}; look at the warnings above and at the annotations (a part of a "
            "larger data set that is background on purpose: no_boxes='ignore')"
        )
    absent = [name for label, name in enumerate(classes) if not counts[label]]
    effect = "are left out of the evaluation" if test_mode else "cannot be learnt from it"
    return [f"{ann_file} has no box to {use} of {len(absent)} class(es), which {effect}: {absent}"] if absent else []


def check_class_names(metainfo: Mapping[str, Any] | None) -> None:
    """Refuse ``classes`` that mmengine would take apart or that name a class twice.

    Raises:
        ValueError: A text instead of a tuple, or a name that occurs twice.
    """
    classes = (metainfo or {}).get("classes")
    if isinstance(classes, str):
        raise UserError(f"metainfo.classes={classes!r} is a text: write a tuple, with a comma: classes=({classes!r},)")
    twice = [name for name, count in Counter(classes or ()).items() if count > 1]
    if twice:
        raise UserError(f"metainfo.classes names {twice} twice")


def check_known(names: set[str], classes: Sequence[str], unknown_classes: str, source: str = "") -> None:
    """Refuse class names that ``classes`` does not have, unless ``unknown_classes='ignore'``."""
    unknown = sorted(name for name in names if name not in classes)
    if unknown and unknown_classes == "error":
        raise UserError(
            f"{source}unknown class {', '.join(map(repr, unknown))}; metainfo has {list(classes)} "
            "(add it, or set the data set's unknown_classes='ignore')"
        )
