"""Released checkpoints of the ReActNet family -> MMPretrain's classifier with ``ReBNNResNet`` or ``ReBNNMobileNet``.

The file is a dict with ``state_dict``, names may begin with ``module.``; :mod:`rebnn_mm.workflows.reactnet_layouts` has
the layouts. Without a scaling factor alpha is the mean modulus of the channel's weights, which ReActNet computes in its
forward. Stage one has the same names, its weights are real-valued: its file fits ``activation_only=True``. Differences
that no conversion can mend: a weight or activation of exactly 0 has the sign 0 there and +1 here, and odd sizes are
rounded down there by the shortcut's pool (224 has none).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import atomic_path, refuse_same_file
from rebnn_mm.functional import scale_init
from rebnn_mm.integrations.checkpoint import load_weights
from rebnn_mm.workflows.reactnet_layouts import Place, layout_of

_SCALE = 0.02  # ReBNN's forward multiplies sign(w) with it, before the modulus of its scaling factor


def convert_file(source: str | Path, target: str | Path) -> dict[str, Tensor]:
    """Write the converted checkpoint ``source`` to ``target``, whole or not at all; returns its state dict.

    Raises:
        FileNotFoundError: ``source`` or the folder of ``target`` is not there.
        ValueError: ``source`` is no checkpoint, or of another layout.
    """
    refuse_same_file(source, target)
    try:
        state = convert_state(load_weights(source)["state_dict"])
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    with atomic_path(target) as path, open(path, "wb") as file:
        torch.save(dict(state_dict=state, meta={}), file)
    return state


def convert_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape a released state dict; every tensor of ours is filled from one of theirs.

    Raises:
        ValueError: A name is unknown or missing, or a tensor has another shape.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    layout = layout_of(state)
    unknown = [name for name, place in layout.places.items() if place is None]
    if unknown or layout.backbone is None:
        found = f"unknown is {unknown[0]} (of {len(unknown)})" if unknown else layout.expected
        raise UserError(
            f"no ResNet-18 or -34 and no ReActNet-A of the ReActNet family, {found}, as "
            "github.com/liuzechun/ReActNet saves them"
        )
    shapes = {f"backbone.{name}": value.shape for name, value in layout.backbone.state_dict().items()}
    converted = _joined(state, layout.places, shapes)
    for name in [name for name in converted if name.endswith(".conv.weight")]:
        alpha, start = name.removesuffix("weight") + "alpha", scale_init(converted[name])
        converted[alpha] = _SCALE * converted[alpha].abs() if alpha in converted else start.flatten()
        converted[name.removesuffix("weight") + "gamma"] = torch.zeros_like(start)
    wanted = [name for name in shapes if not name.endswith("num_batches_tracked")] + ["head.fc.weight", "head.fc.bias"]
    missing = [name for name in wanted if name not in converted]
    if missing:
        raise UserError(f"{len(missing)} tensors are missing, the one for {missing[0]} among them; was it saved whole?")
    return converted


def _joined(
    state: dict[str, Tensor], places: dict[str, Place | None], shapes: dict[str, torch.Size]
) -> dict[str, Tensor]:
    """The tensors under our names, each of one of theirs or of two halves."""
    theirs: dict[str, dict[int, str]] = {}
    for name, place in places.items():
        if place is not None:
            theirs.setdefault(place[0], {})[place[1]] = name
    converted = {}
    for ours, names in theirs.items():
        shape = shapes.get(ours)
        if len(names) == 1 or not state[names[0]].dim():  # a count of batches is the same in both
            converted[ours] = _reshaped(names[min(names)], state[names[min(names)]], shape)
            continue
        half = None if shape is None else torch.Size((shape[0] // 2, *shape[1:]))
        converted[ours] = torch.cat([_reshaped(names[part], state[names[part]], half) for part in sorted(names)])
    return converted


def _reshaped(name: str, value: Tensor, shape: torch.Size | None) -> Tensor:
    """``value`` in our shape: theirs differ by dimensions of size 1, or are flattened to (N, 1)."""
    if shape is None:  # the head, whose number of classes is free
        return value
    same = [size for size in value.shape if size != 1] == [size for size in shape if size != 1]
    if not same and value.shape != (shape.numel(), 1):
        raise UserError(f"{name} has the shape {tuple(value.shape)}, which cannot become {tuple(shape)}")
    return value.reshape(shape)
