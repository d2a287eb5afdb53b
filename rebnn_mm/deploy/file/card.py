"""The card of a file: config, class names, preprocessing and origin of its model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rebnn_mm.errors import UserError


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input: ``(x - mean) / std``, channel by channel.

    Attributes:
        mean: One for each channel, in the units of pixels, 0 to 255, in the order of ``channel_order``; empty if the
            network takes pixels as they are.
        std: The same.
        channel_order: ``'rgb'`` or ``'bgr'``: what the network takes. Of other than three channels the order is that
            of the images it was trained on, and this is ``'rgb'``.
        size: (H, W) of the images it was tested on, or None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str = "rgb"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.channel_order not in ("rgb", "bgr"):
            raise UserError(f"channel_order {self.channel_order!r}: 'rgb' or 'bgr'")
        if self.channel_order == "bgr" and len(self.mean) not in (0, 3):
            raise UserError(f"channel_order 'bgr' is for three channels, mean and std are for {len(self.mean)}")
        if len(self.mean) != len(self.std) or not all(isinstance(n, (int, float)) for n in (*self.mean, *self.std)):
            raise UserError(f"mean {self.mean} and std {self.std} are not as many numbers each")
        if 0 in self.std:
            raise UserError(f"std {self.std} divides by zero")


@dataclass(frozen=True)
class ModelCard:
    """All of it is optional, and plain values only.

    Attributes:
        config: The training config's dict; a detector is rebuilt from it.
        classes: Names of the classes, in the order of the outputs.
        preprocessing: How an image becomes the network's input.
        method: How it was trained, e.g. ``'ReBNNConv2d, BalanceHook(magnitude=gradient)'``.
        source_commit: Commit of the code that trained it.
        metrics: Name -> value, as measured on the trained model.
    """

    config: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    method: str | None = None
    source_commit: str | None = None
    metrics: dict[str, float] | None = None

    def plain(self) -> dict[str, Any]:
        """As plain values, for a file's header."""
        return {**vars(self), "preprocessing": asdict(self.preprocessing) if self.preprocessing else None}

    @classmethod
    def from_plain(cls, info: dict[str, Any]) -> ModelCard:
        """From a file's header, which may hold other keys too.

        Raises:
            ValueError: A value is of the wrong kind.
        """
        own = {key: info.get(key) for key in cls.__dataclass_fields__}
        kinds: dict[str, Any] = dict(config=dict, classes=(list, tuple), preprocessing=dict, metrics=dict)
        for key, kind in dict(kinds, method=str, source_commit=str).items():
            if own[key] is not None and not isinstance(own[key], kind):
                raise UserError(f"{key} is a {type(own[key]).__name__}")
        if own["preprocessing"] is not None:
            try:
                own["preprocessing"] = Preprocessing(**own["preprocessing"])
            except TypeError as error:
                raise UserError(f"preprocessing is malformed: {error}") from None
        if own["classes"] is not None:
            own["classes"] = tuple(map(str, own["classes"]))
        return cls(**own)
