"""What the page asks of a model: a picture in, boxes or labels out, as plain values for JSON."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps

from rebnn_mm.deploy.load import PackedClassifier
from rebnn_mm.errors import UserError

SHOWN_LABELS = 5
# boxes below it are not sent: a page with a thousand boxes shows nothing
LEAST_SCORE = 0.05
_PREVIEW = 1600  # pixels of the longer side of the picture that goes back to the page


@dataclass(frozen=True)
class Found:
    """One class or one box.

    Attributes:
        label: The class's name, or its number where the file has no names.
        score: In [0, 1].
        box: (x1, y1, x2, y2) in pixels of the picture; None for a whole picture's class.
    """

    label: str
    score: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Look:
    """What a model sees in one picture.

    Attributes:
        picture: RGB, (H, W, 3) uint8, as the model's loader read it.
        found: Best first.
        milliseconds: From the decoded picture to ``found``.
    """

    picture: np.ndarray
    found: tuple[Found, ...]
    milliseconds: float

    def plain(self) -> dict[str, Any]:
        """As JSON takes it; the picture is a data URL of a JPEG, made smaller if it is large."""
        height, width = self.picture.shape[:2]
        preview = Image.fromarray(self.picture)
        preview.thumbnail((_PREVIEW, _PREVIEW))
        file = io.BytesIO()
        preview.save(file, "JPEG", quality=90)
        url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        found = [asdict(one) for one in self.found]
        return dict(picture=url, width=width, height=height, found=found, milliseconds=self.milliseconds)


class Looker(Protocol):
    """A model behind the page.

    Attributes:
        kind: ``'classifier'`` or ``'detector'``.
        classes: Number of classes, or None if nobody knows.
    """

    kind: str
    classes: int | None

    def look(self, path: Path) -> Look:
        """Predict on one image file.

        Raises:
            UserError: The file cannot be decoded.
        """


class PlainLooker:
    """A packed classifier without a config, as :func:`rebnn_mm.deploy.export_model` writes it from any network.

    Pictures are read as RGB by Pillow, turned as their EXIF says, and scaled to the size in the file's card. Pixels are
    those that the tools' loader (OpenCV) reads: 16-bit grey keeps its upper 8 bits.

    Args:
        model: From :func:`rebnn_mm.deploy.load_model`.

    Raises:
        UserError: It is no classifier of colour images.
    """

    kind = "classifier"

    def __init__(self, model: torch.nn.Module) -> None:
        if not isinstance(model, PackedClassifier) or model.in_channels != 3:
            raise UserError(
                "the file holds a network that is no classifier of RGB images, and no config that says how to show "
                "its outputs: export a detector or classifier with tools/export.py"
            )
        self.model = model
        self.names = model.card.classes or ()
        self.classes = len(self.names) or None

    def look(self, path: Path) -> Look:
        """As :class:`Looker` says."""
        try:
            with Image.open(path) as file:
                image = _as_rgb(ImageOps.exif_transpose(file))
        except UserError:
            raise
        except Exception as error:  # decoders raise what they like
            raise UserError(f"cannot be decoded ({type(error).__name__})") from None
        start = time.perf_counter()
        preprocessing = self.model.card.preprocessing
        size = preprocessing.size if preprocessing else None
        scaled = image.resize(size[::-1], Image.Resampling.BILINEAR) if size else image
        pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            scores = self.model(pixels)[0]
        return Look(np.asarray(image), best_labels(scores, self.names), (time.perf_counter() - start) * 1e3)


def _as_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; Pillow alone clips what goes beyond 255, so that 16 bits are white and shares of 1 black."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(
            "its pixels are read as numbers of 32 bits, and nothing says which one is white: convert it to 8 "
            "bits, or to 16-bit PNG or TIFF"
        )
    return image.convert("RGB")


def best_labels(scores: torch.Tensor, names: Sequence[str]) -> tuple[Found, ...]:
    """The best classes of (classes,) scores."""
    values, numbers = scores.float().sort(descending=True)
    rows = zip(values[:SHOWN_LABELS].tolist(), numbers[:SHOWN_LABELS].tolist(), strict=True)
    return tuple(Found(name_of(number, names), value) for value, number in rows)


def name_of(number: int, names: Sequence[str]) -> str:
    """The class's name, or its number."""
    return str(names[number]) if number < len(names) else str(number)
