"""What several tests of ``runtime/`` need: ExecuTorch and a compiler, pictures, the C++ program."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOUND = importlib.util.find_spec("executorch")
NEEDS = [
    pytest.mark.xdist_group("runtime"),  # one worker, which compiles the library once
    pytest.mark.slow,
    pytest.mark.skipif(not FOUND, reason="executorch is not installed: pip install 'executorch>=1.5.1,<1.6'"),
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++"),
    pytest.mark.filterwarnings("ignore"),  # torch's and ExecuTorch's own
]
SIZE = (128, 160)
PIXELS = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def write_ppm(path, pixels):
    path.write_bytes(b"P6\n# a comment\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes())
    return path


def run(built, *arguments):
    return subprocess.run([built / "rebnn_run", *map(str, arguments)], capture_output=True, text=True)


def build_runtime(folder, **variables):
    """``runtime/build.sh`` into ``folder``, with ExecuTorch's kernels, and these environment variables."""
    package = list(FOUND.submodule_search_locations)[0]
    environment = {**os.environ, "EXECUTORCH": package, "REBNN_KERNELS": "1", **variables}
    return subprocess.run(["sh", ROOT / "runtime/build.sh", folder], env=environment, capture_output=True, text=True)
