"""Released checkpoints of the ReActNet family's ResNets -> MMPretrain's classifier with a ``ReBNNResNet``.

The layout of github.com/liuzechun/ReActNet (``resnet/*/birealnet.py``) and github.com/SteveTsui/ReBNN
(``2_step2_rebnn/rebnn.py``); the file is a dict with ``state_dict``, names may begin with ``module.``:

============================================ ============================== =========================================
theirs                                       shape                          ours
============================================ ============================== =========================================
``conv1.weight``, ``bn1.*``                                                 ``backbone.stem.0.weight``, ``stem.1.*``
``layerS.B.move0.bias``                      (1, C_in, 1, 1)                ``unit.shift.shift``, (C_in,)
``layerS.B.binary_conv.weight``              (C_out, C_in, 3, 3)            ``unit.conv.weight``
``layerS.B.binary_conv.weights``             (C_out * C_in * 9, 1)          the same, as Bi-Real Net's code keeps it
``layerS.B.binary_conv.scaling_factor``      (C_out, 1, 1, 1), ReBNN only   ``unit.conv.alpha`` = 0.02 * its modulus
``layerS.B.bn1.*``                           (C_out,)                       ``unit.norm.*``
``layerS.B.move1.bias``, ``move2.bias``      (1, C_out, 1, 1)               ``unit.act.before.shift``, ``after.shift``
``layerS.B.prelu.weight``                    (C_out,)                       ``unit.act.prelu.weight``
``layerS.B.downsample.1.weight``, ``.2.*``   (C_out, C_in, 1, 1)            ``downsample.1.weight``, ``.2.*``
``fc.*``                                     (classes, 512)                 ``head.fc.*``
============================================ ============================== =========================================

Without a scaling factor alpha is the mean modulus of the channel's weights, which ReActNet computes in its forward.
Stage one has the same names, its weights are real-valued: its file fits ``activation_only=True``. Differences that
no conversion can mend: a weight or activation of exactly 0 has the sign 0 there and +1 here, and odd sizes are
rounded down there by the shortcut's pool (224 has none).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import atomic_path
from rebnn_mm.functional import scale_init
from rebnn_mm.integrations.checkpoint import load_weights

_SCALE = 0.02  # ReBNN's forward multiplies sign(w) with it, before the modulus of its scaling factor
_OURS = {
    "move0.bias": "unit.shift.shift",
    "bn1": "unit.norm",
    "move1.bias": "unit.act.before.shift",
    "prelu.weight": "unit.act.prelu.weight",
    "move2.bias": "unit.act.after.shift",
    "downsample.1.weight": "downsample.1.weight",
    "downsample.2": "downsample.2",
}
_DEPTHS = {sum(counts): depth for depth, (block, counts) in ReBNNResNet.settings.items() if block.convs == 1}


def convert_file(source: str | Path, target: str | Path) -> dict[str, Tensor]:
    """Write the converted checkpoint ``source`` to ``target``, whole or not at all; returns its state dict.

    Raises:
        FileNotFoundError: ``source`` or the folder of ``target`` is not there.
        ValueError: ``source`` is no checkpoint, or of another layout.
    """
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
    names = {name: _our_name(name) for name in state}
    unknown = [name for name, ours in names.items() if ours is None]
    blocks = {match[0] for match in (re.match(r"layer\d+\.\d+\.", name) for name in state) if match}
    if unknown or len(blocks) not in _DEPTHS or "conv1.weight" not in state:
        found = f"unknown to it is {unknown[0]} (of {len(unknown)})" if unknown else f"it has {len(blocks)} blocks"
        raise UserError(
            f"no ResNet of the ReActNet family, {found}; expected are conv1, bn1, layerS.B.binary_conv, ..., fc with "
            f"{' or '.join(map(str, _DEPTHS))} blocks, as github.com/liuzechun/ReActNet saves them"
        )
    backbone = ReBNNResNet(_DEPTHS[len(blocks)], base_channels=state["conv1.weight"].shape[0])
    shapes = {f"backbone.{name}": value.shape for name, value in backbone.state_dict().items()}
    converted = {ours: _reshaped(name, state[name], shapes.get(ours)) for name, ours in names.items() if ours}
    for name in [name for name in converted if name.endswith(".unit.conv.weight")]:
        alpha = name.removesuffix("weight") + "alpha"
        converted[alpha] = _SCALE * converted[alpha].abs() if alpha in converted else scale_init(converted[name])
        converted[name.removesuffix("weight") + "gamma"] = torch.zeros_like(converted[alpha])
    wanted = [name for name in shapes if not name.endswith("num_batches_tracked")] + ["head.fc.weight", "head.fc.bias"]
    missing = [name for name in wanted if name not in converted]
    if missing:
        raise UserError(f"{len(missing)} tensors are missing, the one for {missing[0]} among them; was it saved whole?")
    return converted


def _our_name(name: str) -> str | None:
    """Our name for one of theirs, or None for an unknown one."""
    match = re.fullmatch(r"(layer[1-4]\.\d+)\.(.+)", name)
    if match is None:
        module, _, rest = name.partition(".")
        ours = {"conv1": "backbone.stem.0", "bn1": "backbone.stem.1", "fc": "head.fc"}.get(module)
        return ours and f"{ours}.{rest}"
    block, part = f"backbone.{match[1]}", match[2]
    if part in ("binary_conv.weight", "binary_conv.weights"):
        return f"{block}.unit.conv.weight"
    if part == "binary_conv.scaling_factor":
        return f"{block}.unit.conv.alpha"
    if part in _OURS:
        return f"{block}.{_OURS[part]}"
    module, _, rest = part.rpartition(".")
    return f"{block}.{_OURS[module]}.{rest}" if module in _OURS else None


def _reshaped(name: str, value: Tensor, shape: torch.Size | None) -> Tensor:
    """``value`` in our shape: theirs differ by dimensions of size 1, or are flattened to (N, 1)."""
    if shape is None:  # the head, whose number of classes is free
        return value
    same = [size for size in value.shape if size != 1] == [size for size in shape if size != 1]
    if not same and value.shape != (shape.numel(), 1):
        raise UserError(f"{name} has the shape {tuple(value.shape)}, which cannot become {tuple(shape)}")
    return value.reshape(shape)
