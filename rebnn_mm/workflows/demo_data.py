"""A small VOC-format data set of drawn shapes: several classes, varied sizes, turns and tones, seeded."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import atomic_folder

CLASSES = ("disc", "square", "triangle", "star")
_XML = """<annotation><filename>{name}.jpg</filename>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>
"""
_OBJECT = """<object><name>{label}</name><difficult>0</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>
"""
# radii of the corners, evenly spaced around the centre, as shares of the outer radius
_CORNERS = {"disc": (1.0,) * 40, "square": (1.0,) * 4, "triangle": (1.0,) * 3, "star": (1.0, 0.42) * 5}
# Every class has its own colour, as most things have: what minutes of training can learn. OpenCV's hues, 0 to 180.
_HUES = {"disc": 0, "square": 112, "triangle": 60, "star": 27}
_SMALLEST = 9  # pixels, outer radius

Box = tuple[int, int, int, int]


def make_demo_data(
    out: str | Path, train: int = 200, test: int = 50, size: tuple[int, int] = (160, 120), seed: int = 0
) -> Path:
    """Write ``out``/VOCdevkit/VOC2007 with splits ``trainval`` and ``test``; returns that path.

    Args:
        out: Folder to write into; a data set that is already there is not touched.
        train: Images of the split ``trainval``.
        test: Images of the split ``test``.
        size: Width and height of an image, in pixels.
        seed: The same seed draws the same pictures.

    Raises:
        UserFileError: ``out`` holds a data set already, or the disk is full.
        ValueError: A count below 1 or a side below 64 pixels.
    """
    root = Path(out) / "VOCdevkit" / "VOC2007"
    if min(train, test) < 1 or min(size) < 64:
        raise UserError(f"train={train}, test={test}, size={size}: counts from 1, sides from 64 pixels")
    with atomic_folder(root) as part:
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (part / folder).mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for split, count in (("trainval", train), ("test", test)):
            names = [f"{split}_{i:04d}" for i in range(count)]
            for name in names:
                image, boxes = _draw(rng, *size)
                # not imwrite, which says nothing when the disk is full
                (part / "JPEGImages" / f"{name}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
                objects = "".join(_OBJECT.format(*box, label=label) for label, box in boxes)
                xml = _XML.format(name=name, width=size[0], height=size[1], objects=objects)
                (part / "Annotations" / f"{name}.xml").write_text(xml)
            (part / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def _draw(rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, list[tuple[str, Box]]]:
    """One picture with 1 to 5 shapes that do not overlap, and their VOC boxes (1-based, inclusive)."""
    image = _background(rng, width, height)
    taken = np.zeros((height, width), bool)
    boxes: list[tuple[str, Box]] = []
    wanted = int(rng.integers(1, 6))
    for _ in range(60):
        if len(boxes) == wanted:
            break
        # evenly spread in the logarithm: as many small shapes as large ones
        radius = _SMALLEST * math.exp(rng.uniform(0, math.log(min(width, height) / 2.6 / _SMALLEST)))
        centre = rng.uniform(radius + 1, width - radius - 2), rng.uniform(radius + 1, height - radius - 2)
        label = CLASSES[int(rng.integers(len(CLASSES)))]
        corners = _polygon(label, centre, radius, turn=rng.uniform(0, 2 * math.pi))
        mask = cv2.fillPoly(np.zeros((height, width), np.uint8), [corners], 255)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x1, y1, x2, y2 = int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
        if taken[y1 : y2 + 1, x1 : x2 + 1].any():
            continue
        taken[y1 : y2 + 1, x1 : x2 + 1] = True
        cv2.fillPoly(image, [corners], _colour(rng, label), lineType=cv2.LINE_AA)
        boxes.append((label, (x1 + 1, y1 + 1, x2 + 1, y2 + 1)))
    return image, boxes


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Soft patches of dull colour with a little noise: (H, W, 3) uint8."""
    patches = rng.uniform(90, 165, (4, 5, 3)).astype(np.float32)
    soft = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(soft + rng.normal(0, 5, (height, width, 3)), 0, 255).astype(np.uint8)


def _polygon(label: str, centre: tuple[float, float], radius: float, turn: float) -> np.ndarray:
    radii = radius * np.array(_CORNERS[label])
    angles = turn + 2 * math.pi * np.arange(len(radii)) / len(radii)
    points = np.stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)], axis=1)
    return np.round(points).astype(np.int32)


def _colour(rng: np.random.Generator, label: str) -> tuple[float, ...]:
    """A strong colour around the hue of the class, darker or lighter: (B, G, R)."""
    hue = (_HUES[label] + int(rng.integers(-8, 9))) % 180
    hsv = np.array([[[hue, rng.integers(150, 256), rng.integers(140, 256)]]], dtype=np.uint8)
    return tuple(float(value) for value in cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0])
