"""The build with CMake, installed, and a project that finds it."""

import os
import shutil
import subprocess

import pytest
from cpp_runtime import FOUND, NEEDS, ROOT

pytestmark = [*NEEDS, pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")]

PROJECT = """
cmake_minimum_required(VERSION 3.18)
project(mine CXX)
find_package(rebnn REQUIRED)
add_executable(mine mine.cpp)
target_link_libraries(mine PRIVATE rebnn::rebnn)
"""
PROGRAM = """
#include <cstdio>

#include "rebnn/rebnn.h"
#include "rebnn/runtime.hpp"

int main(int, char** words) {
    rebnn::Classifier model(words[1]);
    for (const rebnn::Label& label : model(rebnn::read_image(words[2])))
        std::printf("%.4f  %s\\n", label.score, label.name.c_str());
    return rebnn_classifier_open("none.pte") != nullptr;
}
"""


def done(*words, **variables):
    """What a command that must succeed printed."""
    found = subprocess.run([*map(str, words)], capture_output=True, text=True, env={**os.environ, **variables})
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    return found.stdout


def test_it_builds_installs_and_is_found(files, image, tmp_path):
    package = list(FOUND.submodule_search_locations)[0]
    build, prefix = tmp_path / "build", tmp_path / "prefix"
    done("cmake", "-S", ROOT / "runtime", "-B", build, f"-DEXECUTORCH={package}", "-DREBNN_KERNELS=ON")
    done("cmake", "--build", build, "-j", 2)
    model, wanted = files[0][1], done(build / "rebnn_run", files[0][1], image[0]).splitlines()[:5]
    assert len(wanted) == 5 and wanted[0].split("  ")[1].startswith("class ")
    done("cmake", "--install", build, "--prefix", prefix)
    shutil.move(prefix, tmp_path / "elsewhere")  # nothing in it names the folder it was installed to
    prefix = tmp_path / "elsewhere"
    # none of ExecuTorch's libraries but those that were installed with it
    links = done("ldd", prefix / "bin/rebnn_run")
    assert package not in links and str(tmp_path / "build") not in links and "not found" not in links
    assert done(prefix / "bin/rebnn_run", model, image[0]).splitlines()[:5] == wanted

    project = tmp_path / "project"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(PROJECT)
    (project / "mine.cpp").write_text(PROGRAM)
    done("cmake", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    done("cmake", "--build", project / "build")
    assert done(project / "build/mine", model, image[0]).splitlines() == wanted
