"""Freed memory that stays with the process: told to glibc's allocator.

A training step frees what the forward kept, and glibc gives much of it back to the system. The next step asks for it
again, and the system hands it out page by page, each cleared first. Told to keep it, glibc hands the same pages out
again, as the arenas of onnxruntime and TFLite do. No number changes; docs/performance.md, "Freed memory", has times.

This module imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

# an environment with one of these has chosen already, or has another allocator
CHOICES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
TRIM_BYTES = 1 << 30  # free at the end of the heap before any is given back
MMAP_BYTES = 1 << 25  # from this size on a block is mapped by itself, and given back when freed; glibc takes no more
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let glibc keep freed memory for the next tensor, up to :data:`TRIM_BYTES` of it, for this whole process.

    The environment variables ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` do the same for any program.

    Args:
        environment: Where one of :data:`CHOICES` begins a name, the user has chosen and nothing is done.

    Returns:
        Whether it was told: not against the user's choice, nor to another C library.
    """
    if any(name.startswith(CHOICES) for name in environment):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES) and mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES))
