"""What runtime/build.sh compiles anew, seen by a compiler that only writes down what it is asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
COMPILER = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
        -c) echo "$2" >> "$CALLS" ;;
        -o) touch "$2" ;;
    esac
    shift
done
"""


@pytest.fixture
def tree(tmp_path):
    shutil.copytree(ROOT / "runtime", tmp_path / "runtime")
    shutil.copytree(ROOT / "rebnn_mm/deploy/kernels", tmp_path / "rebnn_mm/deploy/kernels")
    header = tmp_path / "executorch/include/executorch/runtime/backend/interface.h"
    header.parent.mkdir(parents=True)
    header.touch()
    (tmp_path / "compiler").write_text(COMPILER)
    (tmp_path / "compiler").chmod(0o755)
    return tmp_path


def compiled(tree):
    """Names of the sources that one run compiles."""
    calls = tree / "calls"
    calls.write_text("")
    environment = dict(os.environ, CXX=str(tree / "compiler"), EXECUTORCH=str(tree / "executorch"), CALLS=str(calls))
    subprocess.run(["sh", "runtime/build.sh", "out"], cwd=tree, env=environment, check=True, capture_output=True)
    return {Path(line).name for line in calls.read_text().splitlines()}


@pytest.mark.parametrize(
    "changed, anew",
    [
        ("runtime/src/json.cpp", {"json.cpp"}),
        ("rebnn_mm/deploy/kernels/pool.cpp", {"pool.cpp"}),
        ("rebnn_mm/deploy/kernels/rebnn_kernels.h", None),  # the version of the interface, which both sides compare
        ("runtime/include/rebnn/runtime.hpp", None),
    ],
)
def test_what_has_changed_is_compiled_and_all_where_it_is_a_header(tree, changed, anew):
    everything = compiled(tree)
    assert {"api.cpp", "delegate.cpp", "transpose.cpp"} <= everything
    for file in tree.rglob("*.[ch]*"):
        os.utime(file, (1e9, 1e9))
    assert compiled(tree) == set()
    os.utime(tree / changed, (4e9, 4e9))
    assert compiled(tree) == (everything if anew is None else anew)
