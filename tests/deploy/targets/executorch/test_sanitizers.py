"""Programs under the compiler's sanitizers: whole networks, several at once, damaged files, changed layers."""

import os
import subprocess
from pathlib import Path

import pytest
from cpp_runtime import FOUND, NEEDS, PIXELS, ROOT, build_runtime, write_ppm

from rebnn_mm.deploy.targets.executorch.file import read_program, sealed

pytestmark = NEEDS
# sizes of these allocations are decided by a program; XNNPACK keeps tables for the life of a process
ENVIRONMENT = dict(ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1", TSAN_OPTIONS="halt_on_error=1")
ROUNDS = 4000


def built_with(folder: Path, name: str, *flags: str) -> Path:
    """``rebnn_run`` and ``programs_test`` with these flags; skips where the compiler has not got them.

    Compiling takes minutes: REBNN_ADDRESS or REBNN_THREAD may name a folder that keeps the objects for the next time.
    """
    folder = Path(os.environ.get(name, folder))
    folder.mkdir(exist_ok=True)
    (folder / "empty.cpp").write_text("int main() {}")
    empty = subprocess.run(["g++", *flags, folder / "empty.cpp", "-o", folder / "empty"], capture_output=True)
    if empty.returncode or subprocess.run([folder / "empty"], capture_output=True).returncode:
        pytest.skip(f"needs a g++ with {' '.join(flags)}")
    done = build_runtime(folder, CXXFLAGS=" ".join([*flags, "-O1", "-w"]))
    assert done.returncode == 0, done.stderr[-3000:]
    package = list(FOUND.submodule_search_locations)[0]
    link = [f"-L{folder}", "-lrebnn", f"-Wl,-rpath,{folder}", f"-Wl,-rpath-link,{package}/lib"]
    sources = ["-std=c++17", f"-I{ROOT / 'runtime/include'}", ROOT / "runtime/tests/programs_test.cpp"]
    command = ["g++", *flags, "-O1", "-pthread", *sources, "-o", folder / "programs_test", *link]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory):
    """Of address and undefined-behaviour sanitizer."""
    flags = ("-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all")
    return built_with(tmp_path_factory.mktemp("sanitized"), "REBNN_ADDRESS", *flags)


def run(program, *words):
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.run([program, *map(str, words)], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def pairs(files, image, exported, tmp_path_factory):
    """Program and image of two classifiers, two one-stage detectors and a two-stage one, in one list."""
    picture = write_ppm(tmp_path_factory.mktemp("picture") / "a.ppm", PIXELS)
    made = [(path, image[0]) for _, path, _ in files]
    rtmdet = {"model.test_cfg.score_thr": 0.02, "test_dataloader.dataset.pipeline.1.scale": (160, 128)}
    regions = {"rpn_head.rpn_cls": 0.02, "rpn_head.rpn_reg": 0.02, "roi_head.bbox_head.fc_cls": 0.05}
    for name, options, spread, choice in [
        ("retinanet_rebnn_r18_coco", {"model.test_cfg.score_thr": 0.02}, {"bbox_head.retina_cls": 0.01}, {}),
        ("rtmdet_rebnn_r18_coco_320", rtmdet, {"bbox_head.rtm_cls.0": 0.01}, {"smaller": True}),
        ("faster_rcnn_rebnn_r18_demo", {"model.test_cfg.rcnn.score_thr": 0.02}, regions, {}),
    ]:
        made.append((exported(name, options, spread, **choice)[2], picture))
    return [word for pair in made for word in pair]


def test_whole_networks_in_turn_and_in_two_threads(sanitized, pairs):
    done = run(sanitized / "programs_test", *pairs)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    programs, results = (int(part.split()[0]) for part in done.stdout.split(", ")[:2])
    assert programs == 5 and results > 100


def test_two_threads_do_not_race(tmp_path, pairs):
    folder = built_with(tmp_path, "REBNN_THREAD", "-fsanitize=thread")
    done = run(folder / "programs_test", *pairs)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_damaged_programs_are_refused_without_reading_outside(sanitized, files, image, tmp_path):
    data = files[0][1].read_bytes()
    cuts = [data[:size] for size in (0, 7, 31, 32, 40, len(data) // 2, len(data) - 33, len(data) - 1)]
    program = read_program(files[0][1])
    # sealed anew: what ExecuTorch itself has to find
    short = [sealed(program[:size]) for size in (8, 64, len(program) // 3)]
    for wrong in [*cuts, *short, data[:100] + data[116:]]:
        (tmp_path / "a.pte").write_bytes(wrong)
        done = run(sanitized / "rebnn_run", tmp_path / "a.pte", image[0])
        assert done.returncode == 1 and done.stderr.startswith("rebnn_run: "), done.stderr[-3000:]


def test_changed_layers_are_refused_or_run(sanitized, files, image, tmp_path):
    words = (files[0][1], image[0], ROUNDS, tmp_path / "a.pte")
    done = run(sanitized / "programs_test", "fuzz", *words)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    refused, ran = (int(part.split()[0]) for part in done.stdout.split(", "))
    assert refused > ROUNDS / 4 and ran > ROUNDS / 20, done.stdout
