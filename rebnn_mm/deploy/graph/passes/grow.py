"""Concatenations that grow, as DenseNet's: each in the memory of the one before, which gets the new channels only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import CONV, CONV_BOTH, Unit, unit_fed_by
from rebnn_mm.deploy.layers.transpose import NHWC

_CAT = torch.ops.aten.cat.default


def grow_concatenations(traced: Traced) -> None:
    """``cat(a, b)``, ``cat(a, b, c)``, ... -> one buffer; the last concatenation is all of it.

    Only units may read the others, which take the first channels of wider pixels. Layouts are chosen already.
    """
    order = {node: index for index, node in enumerate(traced.graph.nodes)}
    cats = [node for node in order if node.target == _CAT and node.meta.get("last")]
    taken: set[fx.Node] = set()
    for cat in cats:
        chain = [cat]
        while cat not in taken and (longer := _next(chain[-1], cats, order)) is not None:
            chain.append(longer)
        channels = _channels(traced, chain[-1])
        if len(chain) > 1 and channels is not None and taken.isdisjoint(chain):
            taken.update(chain)
            _rewrite(traced, chain, channels)
    traced.graph.lint()


def _next(cat: fx.Node, cats: list[fx.Node], order: dict[fx.Node, int]) -> fx.Node | None:
    """The first concatenation that adds something to ``cat``; None if others than units read ``cat``."""
    found = next((other for other in cats if order[other] > order[cat] and _added(cat, other)), None)
    readers = [reader for reader in cat.users if reader is not found]
    if found is None or not all(_conv_fed_by(cat, reader) for reader in readers):
        return None
    return found


def _added(cat: fx.Node, other: fx.Node) -> list[fx.Node]:
    """What ``other`` has behind ``cat`` or behind all that ``cat`` joins; empty if it begins otherwise."""
    parts, own = list(other.args[0]), list(cat.args[0])  # type: ignore[arg-type]
    if parts[:1] == [cat]:
        rest = parts[1:]
    else:
        rest = parts[len(own) :] if parts[: len(own)] == own else []
    return rest if cat not in rest else []


def _conv_fed_by(cat: fx.Node, reader: fx.Node) -> Unit | None:
    """The 1-bit convolution at ``reader`` whose input ``cat`` is, and nothing else of it."""
    return unit_fed_by(cat, reader) if reader.target in (CONV, CONV_BOTH) else None


def _channels(traced: Traced, cat: fx.Node) -> int | None:
    """How many channels it has, by what reads it."""
    for reader in cat.users:
        if (unit := _conv_fed_by(cat, reader)) is not None:
            return unit.spec.c_in
        if is_affine(reader) and reader.args[0] is cat:
            scale = traced.constant(reader.args[1])
            return None if scale is None else scale.numel()
    return None


def _rewrite(traced: Traced, chain: list[fx.Node], channels: int) -> None:
    added = [list(chain[0].args[0]), *(_added(*two) for two in zip(chain, chain[1:], strict=False))]  # type: ignore[arg-type]
    new: fx.Node | None = None
    for cat, parts in zip(chain, added, strict=True):
        target: Any = Begin(channels) if new is None else extend
        with traced.graph.inserting_before(cat):
            first = [] if new is None else [new]
            new = traced.graph.create_node("call_function", target, (*first, *parts), name="grown")
        new.meta = dict(cat.meta)
        cat.replace_all_uses_with(new)
    for cat in reversed(chain):
        traced.graph.erase_node(cat)


class Begin:
    """``cat(parts, 1)`` in the first channels of a buffer, (N, ``channels``, H, W) in channels-last memory."""

    def __init__(self, channels: int) -> None:
        self.__name__ = "begin"
        self._channels = channels

    def __call__(self, *parts: Tensor) -> Tensor:
        """Compute."""
        n, c, h, w = parts[0].shape
        if c > self._channels:
            raise ValueError(f"{c} channels in a concatenation of {self._channels}")
        buffer = torch.empty((n, self._channels, h, w), dtype=torch.float32, device="cpu", memory_format=NHWC)
        buffer[:, :c].copy_(parts[0])
        return extend(buffer[:, :c], *parts[1:])


def extend(before: Tensor, *parts: Tensor) -> Tensor:
    """``cat((before, *parts), 1)`` in the memory of ``before``, which has room behind each pixel's channels.

    Raises:
        ValueError: It has not.
    """
    start = before.shape[1]
    n, _, h, w = before.shape
    channels = start + sum(part.shape[1] for part in parts)
    if channels > before.stride(3):
        raise ValueError(f"{channels} channels in a concatenation of {before.stride(3)}")
    y = before.as_strided((n, channels, h, w), before.stride())
    for part in parts:
        y[:, start : start + part.shape[1]].copy_(part)
        start += part.shape[1]
    return y
