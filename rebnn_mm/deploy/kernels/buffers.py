"""Memory for the native library: aligned blocks, the last ones used, and a workspace for each thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

import numpy as np

_ALIGNMENT = 64  # as rebnn_kernels.h asks for

Key = TypeVar("Key")
Value = TypeVar("Value")


class Buffer:
    """Bytes that nobody has written to; no tensor, whose device torch's modes would decide."""

    def __init__(self, size: int) -> None:
        self._memory = np.empty(size + _ALIGNMENT, np.uint8)
        self.size = size
        self.address = -(-self._memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        self.with_size = self.address, size


class LastUsed(Generic[Key, Value]):
    """The ``most`` values that were used last, for any number of threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value of ``key``, or None."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, and forget the one whose use lies back longest."""
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def __len__(self) -> int:
        return len(self._values)


class Workspaces(threading.local):
    """A buffer of this thread that grows with what is asked for, up to ``KEPT`` bytes; beyond, one for each call."""

    KEPT = 1 << 25

    def __init__(self) -> None:
        self._buffer = Buffer(0)

    def of(self, size: int) -> Buffer:
        """A buffer of at least ``size`` bytes, until the next call in this thread."""
        if size > self.KEPT:
            return Buffer(size)
        if size > self._buffer.size:
            self._buffer = Buffer(size)
        return self._buffer


workspaces = Workspaces()
