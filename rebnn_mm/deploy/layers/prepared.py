"""Whether a plan may be used: in eager mode only, and while the tensors that it was made of are unchanged."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn


def is_recorded(x: Any) -> bool:
    """Whether the operations on ``x`` are written down, to be run later, elsewhere, or by somebody else.

    A prepared layer is a call into native code, which leaves no trace: ``torch.jit.trace``, ``torch.fx``, ``make_fx``,
    ``torch.export`` and ``torch.compile`` would keep its numbers as constants. They get registered operators instead,
    and so do subclasses of Tensor, dispatch modes and function transforms, whose tensors have no memory to read.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or type(x) not in _PLAIN
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.is_functorch_wrapped_tensor(x)
    )


_PLAIN = (Tensor, nn.Parameter)


class Sources:
    """The tensors that something was made of, to find out whether they have changed since; it keeps none alive.

    They are told apart by identity and by torch's version counter, which every operation in place moves (writing
    through ``.data`` does not). Tensors made in inference mode have no counter: of them copies are kept and compared.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        tensors = list(tensors)
        self._ids = [*map(id, tensors)]
        gone: list[Any] = []  # when one dies, another may get its identity
        self._gone = gone
        self._references = [weakref.ref(tensor, gone.append) for tensor in tensors]
        counted = not any(tensor.is_inference() for tensor in tensors)
        self._versions = [*map(_version, tensors)] if counted else None
        self._copies = [] if counted else [tensor.clone() for tensor in tensors]

    def are(self, tensors: Iterable[Tensor]) -> bool:
        """Whether ``tensors``, in the same order, are the same ones and unchanged. Some 0.6 us for nine."""
        if self._gone or [*map(id, tensors)] != self._ids:
            return False
        if self._versions is not None:
            return [*map(_version, tensors)] == self._versions
        return all(map(torch.equal, tensors, self._copies))


_version = attrgetter("_version")


class PlanCache:
    """The plans of the tensors that operators were handed last, at most ``MOST``.

    An entry goes with its weight's bits. It is found by the identity of all tensors, never by an address: memory that
    is freed belongs to another weight soon. One weight may have several plans: a head that is shared by the levels of a
    pyramid may have norms of its own for each.
    """

    MOST = 512  # a detector has some 100 layers

    def __init__(self) -> None:
        # No lock: a weight may be freed, and its entry with it, at any moment, also by this thread. Each step below is
        # one operation of the interpreter, and a plan that is lost is only made again.
        self._entries: dict[Hashable, tuple[weakref.ref[Tensor], Sources, Any]] = {}

    def get(self, make: Callable[[], Any], tensors: Sequence[Tensor | None], options: Hashable) -> Any:
        """The plan of ``tensors``, a weight's bits first, and ``options``; made by ``make`` if it is not there."""
        bits = tensors[0]
        assert bits is not None
        key = (options, *map(id, tensors))
        given = [tensor for tensor in tensors if tensor is not None]
        entry = self._entries.get(key)
        if entry is not None and entry[1].are(given):
            return entry[2]
        sources = Sources(given)  # before the plan: a change that comes between is seen by the next call
        plan = make()
        self._entries[key] = (weakref.ref(bits, lambda _: self._entries.pop(key, None)), sources, plan)
        if len(self._entries) > self.MOST:
            for old in list(self._entries)[: self.MOST // 2]:  # those made first
                self._entries.pop(old, None)
        return plan

    def __len__(self) -> int:
        return len(self._entries)
