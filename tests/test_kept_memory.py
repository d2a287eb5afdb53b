"""glibc keeps freed memory when it is told to, and never against the user."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rebnn_mm.kept_memory import CHOICES, keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
# page faults of a round that takes and frees 80 MB, as a step of a training does; sys.argv[1]: whether it is to be kept
ROUND = """
import ctypes, importlib.util, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 4 KiB, so that their number is known
spec = importlib.util.spec_from_file_location("kept_memory", sys.argv[2])  # alone: rebnn_mm imports torch
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
told = sys.argv[1] == "yes" and module.keep_freed_memory()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(20 << 20) for _ in range(4)]
    del blocks
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def environment(**extra):
    return {name: value for name, value in os.environ.items() if not name.startswith(CHOICES)} | extra


def last_round(keep, **extra):
    command = [sys.executable, "-c", ROUND, keep, str(ROOT / "rebnn_mm/kept_memory.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**extra))
    assert done.returncode == 0, done.stderr
    told, faults = done.stdout.split()
    return told == "True", int(faults)


@pytest.fixture(scope="module")
def by_itself():
    """Page faults of glibc as it is."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library has no such option")
    told, faults = last_round("no")
    assert not told
    if faults < 10_000:
        pytest.skip(f"{faults} page faults for 80 MB: this system does not count them as Linux does")
    return faults


def test_pages_are_not_asked_for_again(by_itself):
    told, faults = last_round("yes")
    assert told and faults < by_itself / 100


def test_the_user_has_the_last_word(by_itself):
    told, faults = last_round("yes", MALLOC_TRIM_THRESHOLD_="131072")
    assert not told and faults > by_itself / 2
    assert not keep_freed_memory({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"})
    assert not keep_freed_memory({"LD_PRELOAD": "libjemalloc.so.2"})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", ["none.py"]),
        ("train_stages", ["none.py", "none2.py"]),
        ("glue", ["none.py"]),
        ("test", ["none.py", "none.pth"]),
        ("infer", ["none.jpg", "none.rebnn", "--out", "none"]),
        ("demo", ["none.rebnn"]),
    ],
)
def test_tools_that_run_networks_keep_it(tool, name, arguments, monkeypatch):
    told = []
    for place in ("kept_memory", "workflows.launch"):
        monkeypatch.setattr(f"rebnn_mm.{place}.keep_freed_memory", lambda: told.append(name))
    with pytest.raises(SystemExit, match="none"):
        tool(name)(*arguments)
    assert told == [name]
