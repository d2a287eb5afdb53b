"""How OpenMP's threads wait: chosen before torch is loaded, and never against the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rebnn_mm.busy_machine import WAITING, rest_while_waiting

ROOT = Path(__file__).resolve().parents[1]


def environment(**extra):
    return {key: value for key, value in os.environ.items() if key not in WAITING} | {"PYTHONPATH": str(ROOT)} | extra


def shown(code, **extra):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(**extra))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SHOW = "; import os; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "extra", "expected"),
    [
        ("import rebnn_mm, torch", {}, "1000"),
        ("import torch, rebnn_mm", {}, "None"),
        ("import rebnn_mm", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("import rebnn_mm", {"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
        ("import rebnn_mm", {"KMP_BLOCKTIME": "0"}, "None"),
    ],
)
def test_set_before_torch_unless_the_user_chose(code, extra, expected):
    assert shown(code + SHOW, **extra) == expected


# what a tool does before it parses, then what it imports after
TOOL = """
import os, runpy, sys
runpy.run_path(sys.argv[1])
assert "torch" not in sys.modules or os.environ["GOMP_SPINCOUNT"] == "1000", "torch came before rebnn_mm"
"""


@pytest.mark.slow
@pytest.mark.parametrize("tool", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_no_tool_loads_torch_before_the_setting(tool):
    done = subprocess.run([sys.executable, "-c", TOOL, tool], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def test_too_late_when_torch_is_loaded():
    import torch  # noqa: F401

    chosen = {}
    assert not rest_while_waiting(chosen) and chosen == {}
