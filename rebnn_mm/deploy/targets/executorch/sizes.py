"""The sizes of images that a program takes, where these are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rebnn_mm.errors import UserError

_MULTIPLE = 32


@dataclass(frozen=True)
class Sizes:
    """Heights and widths of images that a method takes: multiples of ``multiple``, from ``least`` to ``most``."""

    most: tuple[int, int]
    multiple: int = _MULTIPLE

    @property
    def least(self) -> tuple[int, int]:
        """Twice the multiple, as ``torch.export`` takes a size of one for fixed."""
        return (min(2 * self.multiple, self.most[0]), min(2 * self.multiple, self.most[1]))

    def dims(self) -> dict[int, Any]:
        """What ``torch.export`` is told of a 4-d input."""
        sides = zip((2, 3), ("height", "width"), self.most, strict=True)
        return {
            place: self.multiple * torch.export.Dim(name, min=2, max=most // self.multiple)
            for place, name, most in sides
            if most > 2 * self.multiple
        }

    @staticmethod
    def around(side: int) -> int:
        """The next multiple."""
        return -(-side // _MULTIPLE) * _MULTIPLE

    def check(self) -> None:
        """Raise UserError for bounds that no program can have."""
        if len(self.most) != 2 or any(type(n) is not int or n < self.multiple or n % self.multiple for n in self.most):
            raise UserError(f"size={self.most}: height and width are multiples of {self.multiple}")

    def takes(self, size: Sequence[int]) -> bool:
        """Whether images of this height and width are among them."""
        sides = zip(self.least, size, self.most, strict=True)
        return all(least <= n <= most and n % self.multiple == 0 for least, n, most in sides)

    def some(self) -> list[tuple[int, int]]:
        """The largest, the smallest, and one between."""
        height = (self.least[0] + self.most[0]) // 2 // self.multiple * self.multiple
        return list(dict.fromkeys([self.most, self.least, (height, self.least[1])]))


def sizes_of(spec: dict[str, Any]) -> Sizes | None:
    """Of an input as the card has it; None where it takes one size."""
    return Sizes(tuple(spec["shape"][2:]), spec["multiple"]) if "least" in spec else None
