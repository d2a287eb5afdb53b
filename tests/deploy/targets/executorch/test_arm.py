"""The C++ library cross-compiled for aarch64 and run in an emulator, beside the same programs on this processor."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from arm import COMPILER, EMULATOR, needs_arm
from cpp_runtime import NEEDS, PIXELS, build_runtime, run, write_ppm

pytestmark = [*NEEDS, needs_arm]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Folder with ExecuTorch's libraries for aarch64: of EXECUTORCH_AARCH64, else of the wheel that pip finds."""
    if "EXECUTORCH_AARCH64" in os.environ:
        return Path(os.environ["EXECUTORCH_AARCH64"]) / "lib"
    folder = tmp_path_factory.mktemp("wheel")
    words = "executorch==1.5.1 --no-deps --platform manylinux_2_28_aarch64 --only-binary=:all: --dest".split()
    command = [sys.executable, "-m", "pip", "download", "-q", *words, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.skip("needs executorch's wheel for aarch64: from pip, or its package's folder in EXECUTORCH_AARCH64")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith("executorch/lib/")])
    return folder / "executorch/lib"


@pytest.fixture(scope="module")
def on_arm(libraries, tmp_path_factory):
    """``on_arm(*words)``: what ``rebnn_run`` prints in the emulator."""
    folder = tmp_path_factory.mktemp("arm")
    done = build_runtime(folder, CXX=COMPILER, ARCH="aarch64", EXECUTORCH_LIB=str(libraries), CXXFLAGS="-w")
    assert done.returncode == 0, done.stderr[-3000:]

    def call(*words):
        command = [EMULATOR, "-L", "/usr/aarch64-linux-gnu", folder / "rebnn_run", *map(str, words)]
        found = subprocess.run(command, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr[-3000:]
        return found.stdout

    return call


def rows(text):
    return [line.split("  ") for line in text.splitlines() if "  " in line]


def test_a_classifier_gives_the_same_labels(on_arm, built, files, image):
    for _, path, _ in files:
        found, wanted = rows(on_arm(path, image[0])), rows(run(built, path, image[0]).stdout)
        assert len(found) == len(wanted) == 5
        for (score, name), (value, label) in zip(found, wanted, strict=True):
            assert name == label and abs(float(score) - float(value)) < 2e-3


@pytest.mark.parametrize(
    ("config", "options", "spread"),
    [
        ("rtmdet_rebnn_r18_coco_320", {"model.test_cfg.score_thr": 0.02}, [f"bbox_head.rtm_cls.{n}" for n in range(3)]),
        ("faster_rcnn_rebnn_r18_demo", {"model.test_cfg.rcnn.score_thr": 0.02}, ["roi_head.bbox_head.fc_cls"]),
    ],
)
def test_a_detector_gives_the_same_boxes(on_arm, built, exported, tmp_path, config, options, spread):
    _, _, path = exported(config, options, dict.fromkeys(spread, 0.02))
    picture = write_ppm(tmp_path / "a.ppm", PIXELS)
    words = (path, picture, "--detector", "--top", 100)
    found, wanted = rows(on_arm(*words)), rows(run(built, *words).stdout)
    assert len(wanted) > 20 and abs(len(found) - len(wanted)) < 10
    near = 0
    for (score, label, box), (value, name, corners) in zip(found, wanted, strict=False):
        gap = max(abs(float(a) - float(b)) for a, b in zip(box.split(), corners.split(), strict=True))
        near += label == name and abs(float(score) - float(value)) < 2e-3 and gap < 0.5
    # float kernels of two processors round differently: a value near 0 may turn its sign, equal scores change places
    assert near >= 0.8 * len(wanted)
