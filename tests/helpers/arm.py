"""A compiler for aarch64, and the emulator that runs its programs."""

import shutil

import pytest

COMPILER = "aarch64-linux-gnu-g++"
# Debian's qemu-user-static has the longer name
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
needs_arm = pytest.mark.skipif(
    not (EMULATOR and shutil.which(COMPILER)),
    reason=f"needs {COMPILER} and qemu-aarch64 (Debian: g++-aarch64-linux-gnu qemu-user-static)",
)
