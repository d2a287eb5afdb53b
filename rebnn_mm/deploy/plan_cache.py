"""Plans of the tensors that the operators saw last."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layer import ConvSpec, sides_of

LARGEST = 512  # plans; a detector has some 100 layers

_plans: OrderedDict[tuple, _Entry] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class _Entry:
    """A plan and the tensors it was made of. An address alone proves nothing: another model's weight may get it."""

    tensors: tuple[weakref.ref, ...]
    versions: tuple[int, ...]
    plan: Any


def cached_plan(
    kind: type,
    packed: Tensor,
    geometry: Sequence[int],
    tensors: Sequence[Tensor | None],
    clamp: Sequence[float] | None,
    residual_last: bool,
    signs: bool,
    floats: bool,
) -> Any:
    """A ``kind`` (:class:`Conv2dPlan` or :class:`LinearPlan`) of these arguments, the same one while they last.

    A plan serves the very tensor objects that it was made of, as long as nothing was written into them: torch counts
    writes, except those through ``.data`` or into numpy's view. Inference tensors have no such count: for them a
    plan is made in each call. At most ``LARGEST`` plans are kept, and none beyond the life of its weight.
    """
    given = [tensor for tensor in (packed, *tensors) if tensor is not None]
    if any(tensor.is_inference() for tensor in given):
        return _make(kind, packed, geometry, tensors, clamp, residual_last, signs, floats)
    where = tuple(0 if tensor is None else id(tensor) for tensor in (packed, *tensors))
    options = (tuple(geometry), None if clamp is None else tuple(clamp), residual_last, signs, floats)
    key = (kind, library.current_isa(), where, options)
    versions = tuple(tensor._version for tensor in given)
    with _lock:
        entry = _plans.get(key)
        if entry is not None:
            same = all(ref() is tensor for ref, tensor in zip(entry.tensors, given, strict=True))
            if same and entry.versions == versions:
                _plans.move_to_end(key)
                return entry.plan
    plan = _make(kind, packed, geometry, tensors, clamp, residual_last, signs, floats)
    refs = (weakref.ref(packed, lambda _: _plans.pop(key, None)), *map(weakref.ref, given[1:]))
    with _lock:
        _plans[key] = _Entry(refs, versions, plan)
        while len(_plans) > LARGEST:
            _plans.popitem(last=False)
    return plan


def _make(kind, packed, geometry, tensors, clamp, residual_last, signs, floats):
    before, after = sides_of(tensors, clamp, residual_last, signs, floats)
    return kind(packed, ConvSpec.from_ints(geometry), before, after)
