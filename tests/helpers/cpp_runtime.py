"""What several tests of ``runtime/`` need: ExecuTorch and a compiler, pictures, the C++ program."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOUND = importlib.util.find_spec("executorch")
NEEDS = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOUND, reason="executorch is not installed: pip install 'executorch>=1.5.1,<1.6'"),
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++"),
    pytest.mark.filterwarnings("ignore"),  # torch's and ExecuTorch's own
]


def write_ppm(path, pixels):
    path.write_bytes(b"P6\n# a comment\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes())
    return path


def run(built, *arguments):
    return subprocess.run([built / "rebnn_run", *map(str, arguments)], capture_output=True, text=True)
