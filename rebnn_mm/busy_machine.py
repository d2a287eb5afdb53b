"""Threads that do not spin for long: told to OpenMP through the environment, before torch loads it.

The threads of a parallel loop wait for the last of them. GNU's OpenMP, which torch and the packed kernels share, lets
them spin for it, and where another program has one of the cores they spin for whole time slices: a training step takes
ten times as long. With a small spin count they go to sleep instead. docs/performance.md, "A busy machine", has the
numbers.

This module imports nothing but the standard library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# any of these says how threads wait; the last two are of GNU's and of LLVM's and Intel's run-time
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPIN_COUNT = "1000"


def rest_while_waiting(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Set ``GOMP_SPINCOUNT`` if the user has said nothing about waiting, and torch has not yet read it.

    Returns:
        Whether it was set: not if one of :data:`WAITING` is there, nor when torch is loaded, for which it is too late.
    """
    if "torch" in sys.modules or any(name in environment for name in WAITING):
        return False
    environment["GOMP_SPINCOUNT"] = SPIN_COUNT
    return True
