"""A disk that refuses in the middle of a write, by the kernel's own limit on the size of a file."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = """
import contextlib, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does by itself: write then fails with EFBIG

@contextlib.contextmanager
def small_disk(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
"""


def run_on_small_disk(code, *args, folder="hooks"):
    """Run ``code``, which finds ``small_disk(bytes)`` and the tests of ``folder``, in a process of its own."""
    paths = [str(ROOT), str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / folder)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", LIMIT + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
