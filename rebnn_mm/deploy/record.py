"""What a file says about its network, so that it runs with torch alone: two frozen records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STEMS = ("imagenet", "cifar")
EXPANSIONS = {"basic": 1, "bottleneck": 4}


@dataclass(frozen=True)
class ResNetRecord:
    """A :class:`~rebnn_mm.backbones.ReBNNResNet` that is 1-bit throughout.

    Attributes:
        block: ``'basic'`` (one 3x3 convolution) or ``'bottleneck'`` (1x1, 3x3, 1x1).
        blocks: Blocks in each of the four stages.
        in_channels: Channels of the image.
        base_channels: Channels of the stem.
        stem: ``'imagenet'`` (7x7 stride 2, max-pool) or ``'cifar'`` (3x3).
        out_indices: Stages whose maps are returned.
    """

    block: str
    blocks: tuple[int, ...]
    in_channels: int
    base_channels: int
    stem: str
    out_indices: tuple[int, ...]

    def __post_init__(self) -> None:
        counts = (*self.blocks, self.in_channels, self.base_channels)
        if self.block not in EXPANSIONS or self.stem not in STEMS:
            raise ValueError(f"block {self.block!r} and stem {self.stem!r}: one of {sorted(EXPANSIONS)}, of {STEMS}")
        if len(self.blocks) != 4 or not all(type(n) is int and 0 < n < 1 << 20 for n in counts):
            raise ValueError(f"blocks, in_channels, base_channels = {counts} are no six positive integers")
        if not self.out_indices or not all(type(i) is int and 0 <= i <= 3 for i in self.out_indices):
            raise ValueError(f"out_indices {self.out_indices} are not among 0, 1, 2, 3")


@dataclass(frozen=True)
class NetworkRecord:
    """A backbone, or a classifier of it: global average pooling and one linear layer.

    Tensor names in the file start with ``backbone.`` and ``head.fc.`` for a classifier, and are the
    backbone's own otherwise.

    Attributes:
        backbone: The network before the head.
        classes: Outputs of the linear layer; None for a backbone alone.
        head_bias: Whether the linear layer has a bias.
    """

    backbone: ResNetRecord
    classes: int | None = None
    head_bias: bool = True

    def __post_init__(self) -> None:
        if self.classes is not None and (type(self.classes) is not int or self.classes < 1):
            raise ValueError(f"classes {self.classes!r} is no positive integer")

    def plain(self) -> dict[str, Any]:
        """As plain values, for a file's header."""
        return asdict(self)

    @classmethod
    def from_plain(cls, value: Any) -> NetworkRecord:
        """Inverse of :meth:`plain`.

        Raises:
            ValueError: It is none.
        """
        try:
            backbone = ResNetRecord(**value["backbone"])
            return cls(**{**value, "backbone": backbone})
        except (TypeError, KeyError) as error:
            raise ValueError(f"the network record is malformed: {error}") from None
