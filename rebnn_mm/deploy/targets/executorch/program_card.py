"""What a program tells about itself: JSON text, which its constant method ``rebnn_card`` returns.

::

    format         FORMAT
    producer       'rebnn_mm VERSION'
    kind           'classifier', 'network' or 'detector'
    inputs         [{shape, dtype, layout}, ...]     layout: 'nhwc' for images, 'plain' for all else; where several
                   sizes are taken also {least, multiple}: the smallest shape (``shape`` is the largest), and of what
                   height and width are multiples
    outputs        number of tensors that ``forward`` returns
    methods        {name: inputs} of functions beside ``forward``
    classes        names, or null
    preprocessing  {mean, std, channel_order, resize, crop} for images, or null
    detector       what boxes are decoded with, or null; see :mod:`rebnn_mm.integrations.executorch`

``resize`` is null, or {mode, height, width}: ``'exact'`` to this size; ``'inside'`` as large as fits into it, the sides
in proportion; ``'short'`` so that the shorter side is ``height``; ``'fit'`` as large as fits,
height into height. ``crop`` is true where the middle of what comes out
is cut to the input's size; a smaller picture is filled up with the mean, below and at the right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from rebnn_mm import __version__
from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.targets.executorch.sizes import Sizes

FORMAT = 1
METHOD = "rebnn_card"
KINDS = ("classifier", "network", "detector")
_MOVES = (
    "Resize",
    "Crop",
    "Pad",
    "Flip",
    "Rotate",
    "Affine",
    "Translate",
    "Shear",
    "Expand",
)  # words in types of steps


def program_card(
    card: ModelCard,
    inputs: Sequence[Tensor],
    outputs: int,
    kind: str = "network",
    detector: dict[str, Any] | None = None,
    resize: dict[str, Any] | None = None,
    methods: Mapping[str, Sequence[Tensor]] | None = None,
    sizes: Sizes | None = None,
) -> str:
    """The card's text.

    Args:
        card: Of the packed file.
        inputs: What ``forward`` takes.
        outputs: Number of its results.
        kind: One of :data:`KINDS`.
        detector: How boxes are decoded.
        resize: ``resize`` and ``crop``, instead of those of the test pipeline in ``card``.
        methods: What functions beside ``forward`` take.
        sizes: Of the images, where ``forward`` takes several.
    """
    own = dict(
        format=FORMAT,
        producer=f"rebnn_mm {__version__}",
        kind=kind,
        inputs=[_input(x, sizes) for x in inputs],
        outputs=outputs,
        methods={name: [_input(x) for x in given] for name, given in (methods or {}).items()},
        classes=None if card.classes is None else list(card.classes),
        preprocessing=_preprocessing(card, resize),
        detector=detector,
    )
    return json.dumps(own, ensure_ascii=False)


def _input(x: Tensor, sizes: Sizes | None = None) -> dict[str, Any]:
    own: dict[str, Any] = dict(
        shape=list(x.shape),
        dtype=str(x.dtype).removeprefix("torch."),
        layout="nhwc" if x.dim() == 4 else "plain",
    )
    if sizes is None or x.dim() != 4:
        return own
    first = list(x.shape[:2])
    return {**own, "shape": [*first, *sizes.most], "least": [*first, *sizes.least], "multiple": sizes.multiple}


def _preprocessing(card: ModelCard, resize: dict[str, Any] | None) -> dict[str, Any] | None:
    if card.preprocessing is None:
        return None
    plain = {key: value for key, value in asdict(card.preprocessing).items() if key != "size"}
    return {**plain, **(resize or resize_of(card))}


def resize_of(card: ModelCard) -> dict[str, Any]:
    """``resize`` and ``crop`` of the test pipeline in the card's config; without one, images come as they are."""
    resize: dict[str, Any] | None = None
    crop = False
    for step in _pipeline(card.config or {}):
        kind = str(step.get("type", "")).rpartition(".")[2]
        scale: Any = step.get("scale")
        if kind == "ResizeEdge" and step.get("edge", "short") == "short":
            resize = dict(mode="short", height=int(scale), width=int(scale))
        elif kind == "Resize" and scale is not None:
            width, height = (scale, scale) if isinstance(scale, int) else tuple(scale)[:2]
            keeps = bool(step.get("keep_ratio", False))
            resize = dict(mode="inside" if keeps else "exact", height=int(height), width=int(width))
        elif kind == "CenterCrop":
            crop = True
    return dict(resize=resize, crop=crop)


def left_out(card: ModelCard) -> tuple[str, ...]:
    """Steps of the test pipeline that move pixels and that the card cannot tell, one sentence each."""
    return tuple(
        f"the C++ library does not do {_written(step)} of the test pipeline: images differ from those of Python"
        for step in _pipeline(card.config or {})
        if not _is_told(step)
    )


def _is_told(step: dict[str, Any]) -> bool:
    kind = str(step.get("type", "")).rpartition(".")[2]
    plain = step.get("backend", "cv2") == "cv2" and step.get("interpolation", "bilinear") == "bilinear"
    if kind == "ResizeEdge":
        return plain and step.get("edge", "short") == "short"
    if kind == "Resize":
        return plain and step.get("scale") is not None
    if kind == "Pad":  # behind an image, an input is 0
        value = step.get("pad_val", 0)
        value = value.get("img", 0) if isinstance(value, dict) else value
        return not any(value if isinstance(value, (list, tuple)) else [value])
    return kind == "CenterCrop" or not any(word in kind for word in _MOVES)


def _written(step: dict[str, Any]) -> str:
    options = ", ".join(f"{key}={value!r}" for key, value in step.items() if key != "type")
    return f"{str(step['type']).rpartition('.')[2]}({options})"


def _pipeline(config: dict[str, Any]) -> list[dict[str, Any]]:
    loader = config.get("test_dataloader") or {}
    dataset = loader.get("dataset") or {}
    while "pipeline" not in dataset and isinstance(dataset.get("dataset"), dict):  # wrappers of data sets
        dataset = dataset["dataset"]
    steps = dataset.get("pipeline") or config.get("test_pipeline") or []
    return [step for step in steps if isinstance(step, dict)]
