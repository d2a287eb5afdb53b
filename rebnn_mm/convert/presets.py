"""Defaults of ``binarize`` for families of networks: classifiers, detectors, transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rebnn_mm.errors import UserError


@dataclass(frozen=True)
class Preset:
    """Defaults of :func:`rebnn_mm.convert.binarize`; what the caller gives goes before.

    Attributes:
        exclude: Patterns of what stays real-valued, in addition to the caller's; those that match nothing are idle.
        layer: Options of the new layers by type, ``dict(Conv2d=dict(shortcut=True))``.
        frozen: What is done with frozen layers.
        keep_last: Whether the last layer in module order stays real-valued, where the caller says nothing.
    """

    exclude: tuple[str, ...] = ()
    layer: dict[str, dict[str, Any]] = field(default_factory=dict)
    frozen: str = "keep"
    keep_last: bool | None = None

    def patterns(self) -> tuple[str, ...]:
        """``exclude``, where ``*.name`` is also a part of the model itself."""
        return (*self.exclude, *(pattern[2:] for pattern in self.exclude if pattern.startswith("*.")))


# The 1x1 convolution beside a block carries the real-valued signal past it: 0.5 % of ResNet-18's operations, and it
# costs 3 points of top-1 to make it 1-bit (Bi-Real Net, ECCV 2018, section 4.1; ReActNet does without it).
_SIDE = ("*.downsample", "*.shortcut")
# Layers whose outputs are numbers to be read, not features: scores, boxes, masks, sampling points of attention.
_PREDICTIONS = (
    *("*_cls", "*_reg", "*_obj", "*_centerness", "*_iou", "*.conv_logits", "*.conv_seg", "*.fc_mask_iou"),
    *("*.multi_level_conv_*", "*.rtm_*", "*.cls_branches", "*.reg_branches", "*.cls_preds", "*.reg_preds"),
    *("*.cls_convs_scale", "*.reg_ffn", "*.class_embed", "*.bbox_embed", "*.mask_embed", "*.cls_embed"),
    *("*.heatmap_head.[12]", "*.wh_head.[12]", "*.offset_head.[12]", "*.convs_pred", "*.convs_bridge", "*.convs_pred*"),
)
_POSITIONS = (
    *("*.sampling_offsets", "*.attention_weights", "*.reference_points", "*.ref_point_head", "*.query_scale"),
    *("*.cpb_mlp", "*.patch_embed", "*.conv_offset", "*.conv_offset_mask", "reference_points*"),
)

PRESETS: dict[str, Preset] = {
    # Bi-Real Net: a shortcut around every convolution that keeps its shape
    "classifier": Preset(exclude=_SIDE, layer=dict(Conv2d=dict(shortcut=True)), frozen="unfreeze"),
    # The convolutions of an FPN, an RPN and of towers have no shortcut of their own. Stock configs freeze stem and
    # first stage and keep the norms of a pretrained backbone: those of the real-valued network do not fit signs.
    # Their prediction layers are excluded by name, so the last layer in module order is not a special one.
    "detector": Preset(
        exclude=(*_SIDE, *_PREDICTIONS, *_POSITIONS),
        layer=dict(Conv2d=dict(shortcut=True)),
        frozen="unfreeze",
        keep_last=False,
    ),
    # Zhang et al., "Binarized Neural Machine Translation", NeurIPS 2023: a layer norm before the sign, and a shortcut
    # around each linear layer that keeps its width, as the projections of attention do.
    "transformer": Preset(
        exclude=(*_SIDE, *_PREDICTIONS, *_POSITIONS),
        layer=dict(Conv2d=dict(shortcut=True), Linear=dict(shortcut=True, input_norm="layer")),
        frozen="unfreeze",
    ),
}


def find_preset(name: str | None) -> Preset:
    """The preset ``name``; None is one without defaults.

    Raises:
        ValueError: There is none of this name.
    """
    if name is None:
        return Preset()
    if name not in PRESETS:
        raise UserError(f"binarize: preset={name!r} is not one of {', '.join(map(repr, PRESETS))}")
    return PRESETS[name]
