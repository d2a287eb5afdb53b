"""A small VOC-format data set of drawn shapes: several classes, varied sizes, seeded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("disc", "square", "triangle")
_XML = """<annotation><filename>{name}.jpg</filename>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>
"""
_OBJECT = """<object><name>{label}</name><difficult>0</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>
"""


def make_demo_data(
    out: str | Path, train: int = 200, test: int = 50, size: tuple[int, int] = (160, 120), seed: int = 0
):
    """Write ``out``/VOCdevkit/VOC2007 with splits ``trainval`` and ``test``; returns that path.

    Args:
        out: Folder to write into; a data set that is already there is not touched.
        train: Images of the split ``trainval``.
        test: Images of the split ``test``.
        size: Width and height of an image, in pixels.
        seed: The same seed draws the same pictures.

    Raises:
        FileExistsError: ``out`` holds a data set already.
        ValueError: A count below 1 or a side below 64 pixels.
    """
    root = Path(out) / "VOCdevkit" / "VOC2007"
    if min(train, test) < 1 or min(size) < 64:
        raise ValueError(f"train={train}, test={test}, size={size}: counts from 1, sides from 64 pixels")
    if root.exists():
        raise FileExistsError(f"{root} exists already: remove it, or choose another --out")
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for split, count in (("trainval", train), ("test", test)):
        names = [f"{split}_{i:04d}" for i in range(count)]
        for name in names:
            image, boxes = _draw(rng, *size)
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image)
            objects = "".join(_OBJECT.format(*box, label=CLASSES[label]) for label, box in boxes)
            xml = _XML.format(name=name, width=size[0], height=size[1], objects=objects)
            (root / "Annotations" / f"{name}.xml").write_text(xml)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def _draw(rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, list[tuple[int, tuple[int, ...]]]]:
    """One noisy picture with 1 to 4 shapes that do not overlap, and its 1-based inclusive boxes."""
    image = rng.integers(90, 166, (height, width, 3)).astype(np.uint8)
    taken = np.zeros((height, width), bool)
    boxes: list[tuple[int, tuple[int, ...]]] = []
    wanted = int(rng.integers(1, 5))
    for _ in range(40):
        if len(boxes) == wanted:
            break
        side = int(rng.integers(16, min(width, height) // 2))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        if taken[y : y + side, x : x + side].any():
            continue
        taken[y : y + side, x : x + side] = True
        label = int(rng.integers(len(CLASSES)))
        colour = tuple(int(c) for c in rng.choice([20, 235], 3) + rng.integers(-20, 21, 3))
        right, bottom = x + side - 1, y + side - 1
        if label == 0:
            centre, axes = ((x + right) // 2, (y + bottom) // 2), (side // 2 - 1, side // 2 - 1)
            cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1)
        elif label == 1:
            cv2.rectangle(image, (x, y), (right, bottom), colour, -1)
        else:
            corners = np.array([[x, bottom], [right, bottom], [(x + right) // 2, y]])
            cv2.fillPoly(image, [corners], colour)
        boxes.append((label, (x + 1, y + 1, right + 1, bottom + 1)))
    return image, boxes
