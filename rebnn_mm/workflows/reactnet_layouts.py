"""Names in the released checkpoints of the ReActNet family, and the names here.

ResNet-18 and -34, of github.com/liuzechun/ReActNet (``resnet/*/birealnet.py``) and github.com/SteveTsui/ReBNN
(``2_step2_rebnn/rebnn.py``):

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

ReActNet-A, of github.com/liuzechun/ReActNet (``mobilenet/*/reactnet.py``); block ``feature.I`` is ``layerS.B``, where
a stage begins with a block that doubles the channels, which has two 1x1 convolutions, here the halves of one:

================================================ =========================================
theirs                                           ours
================================================ =========================================
``feature.0.conv1.weight``, ``feature.0.bn1.*``  ``backbone.stem.0.weight``, ``stem.1.*``
``move11.bias``, ``move21.bias``                 ``spatial.shift.shift``, ``pointwise...``
``binary_3x3.weights``, ``binary_pw.weights``    ``spatial.conv.weight``, ``pointwise...``
``binary_pw_down1.weights``, ``..._down2...``    first and second half of ``pointwise.conv.weight``
``bn1.*``, ``bn2.*``                             ``spatial.norm.*``, ``pointwise.norm.*``
``bn2_1.*``, ``bn2_2.*``                         first and second half of ``pointwise.norm.*``
``move12.bias``, ``prelu1.weight``, ``move13``   ``spatial.act.before``, ``.prelu``, ``.after``
``move22.bias``, ``prelu2.weight``, ``move23``   ``pointwise.act.before``, ``.prelu``, ``.after``
``fc.*``                                         ``head.fc.*``
================================================ =========================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rebnn_mm.backbones import ReBNNMobileNet, ReBNNResNet

Place = tuple[str, int]
"""Our name, and which part of our tensor theirs is: 0, or 1 for a second half."""

_RESNET: dict[str, Place] = {
    "move0.bias": ("unit.shift.shift", 0),
    "binary_conv.weight": ("unit.conv.weight", 0),
    "binary_conv.weights": ("unit.conv.weight", 0),
    "binary_conv.scaling_factor": ("unit.conv.alpha", 0),
    "bn1": ("unit.norm", 0),
    "move1.bias": ("unit.act.before.shift", 0),
    "prelu.weight": ("unit.act.prelu.weight", 0),
    "move2.bias": ("unit.act.after.shift", 0),
    "downsample.1.weight": ("downsample.1.weight", 0),
    "downsample.2": ("downsample.2", 0),
}


def _mobilenet_names() -> dict[str, Place]:
    names: dict[str, Place] = {}
    halves = [("", 0), ("_down1", 0), ("_down2", 1)]
    for number, unit in ((1, "spatial"), (2, "pointwise")):
        names[f"move{number}1.bias"] = f"{unit}.shift.shift", 0
        names[f"bn{number}"] = f"{unit}.norm", 0
        names[f"move{number}2.bias"] = f"{unit}.act.before.shift", 0
        names[f"prelu{number}.weight"] = f"{unit}.act.prelu.weight", 0
        names[f"move{number}3.bias"] = f"{unit}.act.after.shift", 0
    for weight in ("weight", "weights"):
        names[f"binary_3x3.{weight}"] = "spatial.conv.weight", 0
        names |= {f"binary_pw{end}.{weight}": ("pointwise.conv.weight", half) for end, half in halves}
    return names | {"bn2_1": ("pointwise.norm", 0), "bn2_2": ("pointwise.norm", 1)}


_MOBILENET = _mobilenet_names()
_OUTSIDE: dict[str, Place] = {
    "conv1": ("backbone.stem.0", 0),
    "bn1": ("backbone.stem.1", 0),
    "fc": ("head.fc", 0),
}
_DEPTHS = {sum(counts): depth for depth, (block, counts) in ReBNNResNet.settings.items() if depth in (18, 34)}


@dataclass(frozen=True)
class Layout:
    """Where the tensors of one released checkpoint belong.

    Attributes:
        backbone: Ours, of the checkpoint's depth and width, with random weights; None where the blocks fit none.
        places: Their names -> ours; None for a name that the layout does not have.
        expected: What the checkpoint should have been, for a message.
    """

    backbone: nn.Module | None
    places: dict[str, Place | None]
    expected: str


def layout_of(state: Mapping[str, Tensor]) -> Layout:
    """The layout of a released state dict, whose names begin without ``module.``."""
    return _mobilenet(state) if "feature.0.conv1.weight" in state else _resnet(state)


def _resnet(state: Mapping[str, Tensor]) -> Layout:
    blocks = _numbered(state, r"layer[1-4]\.\d+")
    fits = len(blocks) in _DEPTHS and "conv1.weight" in state
    return Layout(
        ReBNNResNet(_DEPTHS[len(blocks)], base_channels=len(state["conv1.weight"])) if fits else None,
        _places(state, {block: f"backbone.{block}" for block in blocks}, _RESNET),
        f"it has {len(blocks)} blocks; expected are conv1, bn1, layerS.B.binary_conv, ..., fc with "
        f"{' or '.join(map(str, _DEPTHS))} blocks",
    )


def _mobilenet(state: Mapping[str, Tensor]) -> Layout:
    """ReActNet-A's, of any width and number of blocks."""
    blocks = [block for block in _numbered(state, r"feature\.\d+") if block != "feature.0"]
    counts: list[int] = []
    ours: dict[str, str] = {}
    for block in sorted(blocks, key=lambda name: int(name.split(".")[1])):
        if not counts or any(name.startswith(f"{block}.binary_pw_down") for name in state):
            counts.append(0)
        ours[block] = f"backbone.layer{len(counts)}.{counts[-1]}"
        counts[-1] += 1
    width = len(state["feature.0.conv1.weight"])
    return Layout(
        ReBNNMobileNet(base_channels=width, blocks=counts) if counts else None,
        _places(state, ours, _MOBILENET),
        f"it has {len(blocks)} blocks; expected are feature.0 to feature.13 and fc of ReActNet-A",
    )


def _numbered(state: Mapping[str, Tensor], pattern: str) -> set[str]:
    """The blocks that names begin with."""
    return {match[0][:-1] for match in (re.match(rf"{pattern}\.", name) for name in state) if match}


def _places(
    state: Mapping[str, Tensor], blocks: Mapping[str, str], names: Mapping[str, Place]
) -> dict[str, Place | None]:
    """The place of each name: in one of ``blocks`` (theirs -> ours) by ``names``, or in stem and head."""
    places: dict[str, Place | None] = {}
    for name in state:
        part = name.removeprefix("feature.0.")
        block = ".".join(name.split(".")[:2])
        table: Mapping[str, Place] = _OUTSIDE
        prefix = ""
        if block in blocks:
            part, table, prefix = name.removeprefix(f"{block}."), names, f"{blocks[block]}."
        known = part if part in table else part.rpartition(".")[0]  # a norm is named as a whole
        place = table.get(known)
        places[name] = place and (f"{prefix}{place[0]}{part.removeprefix(known)}", place[1])
    return places
