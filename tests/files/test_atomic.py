"""Whole files or none, on a disk that refuses, beside another writer, after an interruption."""

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest
from small_disk import ROOT, run_on_small_disk

from rebnn_mm.errors import MissingFileError, UserError, UserFileError
from rebnn_mm.files.atomic import (
    atomic_folder,
    atomic_path,
    check_results_file,
    check_results_folder,
    refuse_same_file,
    write_bytes,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replaces_all_or_nothing(tmp_path):
    path = tmp_path / "m"
    with atomic_path(path) as part:
        part.write_text("one")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_path(path) as part:
            part.write_text("half")
            raise error
    assert path.read_text() == "one" and names(tmp_path) == ["m"]
    write_text(path, "zwölf")
    assert path.read_bytes() == "zwölf".encode() and names(tmp_path) == ["m"]


def test_folders_are_made_when_asked_for(tmp_path):
    with pytest.raises(MissingFileError, match="make it first"):
        write_bytes(tmp_path / "no" / "m", b"")
    write_bytes(tmp_path / "no" / "deep" / "m", b"1", make_folder=True)
    assert (tmp_path / "no" / "deep" / "m").read_bytes() == b"1"


def test_mode_is_that_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "m", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 20, 4095])
def test_full_disk_keeps_the_old_file(tmp_path, size):
    code = f"""
import sys
from pathlib import Path
from rebnn_mm.files.atomic import atomic_path, write_bytes
path = Path(sys.argv[1])
with small_disk({size}):
    try:
        write_bytes(path, bytes(1 << 14))
    except OSError as error:
        print(type(error).__name__, error.errno, error)
    try:
        with atomic_path(path) as part, open(part, "wb", buffering=0) as file:
            while True:
                file.write(bytes(64))
    except OSError as error:
        print(type(error).__name__, error.errno, error)
"""
    (tmp_path / "m").write_bytes(b"old")
    done = run_on_small_disk(code, tmp_path / "m")
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert line.startswith(f"UserFileError {errno.EFBIG} cannot write {tmp_path}/m: File too large; {tmp_path} has")
        assert "MiB free. What was there before is untouched" in line
    assert (tmp_path / "m").read_bytes() == b"old" and names(tmp_path) == ["m"]


def test_other_errors_within_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "m"):
        open(tmp_path / "nowhere")
    assert not isinstance(caught.value, UserFileError) and names(tmp_path) == []


def test_what_is_no_file_is_not_renamed_over(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserFileError, match="folder: it is a folder"):
        write_bytes(tmp_path / "folder", b"")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserFileError, match="pipe: it is no regular file"):
        write_bytes(tmp_path / "pipe", b"")
    with pytest.raises(UserFileError, match="cannot write .*name too long"):
        write_bytes(tmp_path / ("x" * 300), b"")


def test_a_link_is_replaced_and_its_file_left_alone(tmp_path):
    (tmp_path / "other").write_text("theirs")
    (tmp_path / "m").symlink_to("other")
    write_text(tmp_path / "m", "ours")
    assert (tmp_path / "other").read_text() == "theirs" and not (tmp_path / "m").is_symlink()


@pytest.mark.slow
def test_what_a_killed_process_left_is_overwritten(tmp_path):
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from rebnn_mm.files.atomic import atomic_path
with atomic_path(sys.argv[1]) as part:
    part.write_bytes(b"long and never whole")
    print("there", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "m")], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert names(tmp_path) == [".m.part"]
    write_bytes(tmp_path / "m", b"short")
    assert names(tmp_path) == ["m"] and (tmp_path / "m").read_bytes() == b"short"


@pytest.mark.slow
def test_two_writers_of_one_file_take_turns(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from rebnn_mm.files.atomic import atomic_path
mark = sys.argv[2].encode()
for _ in range(100):
    with atomic_path(sys.argv[1]) as part, open(part, "wb") as file:
        for _ in range(20):
            file.write(mark * 50)
            file.flush()
    text = Path(sys.argv[1]).read_bytes()
    assert text in (b"a" * 1000, b"b" * 1000, b"c" * 1000), text
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "m"), mark], stderr=subprocess.PIPE, text=True)
        for mark in "abc"
    ]
    for writer in writers:
        _, error = writer.communicate(timeout=120)
        assert writer.returncode == 0, error
    assert names(tmp_path) == ["m"]


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "deep" / "data"
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as part:
        (part / "half").touch()
        raise KeyboardInterrupt
    assert names(path.parent) == []
    with atomic_folder(path) as part:
        (part / "whole").touch()
    assert names(path) == ["whole"] and names(path.parent) == ["data"]
    with pytest.raises(OSError, match="data exists already"), atomic_folder(path):
        pass
    assert names(path) == ["whole"]


@pytest.mark.slow
def test_needs_torch_and_numpy_only():
    code = """
import sys
blocked = ["mmengine", "mmcv", "mmdet", "mmpretrain", "cv2"]
sys.modules.update(dict.fromkeys(blocked))
import rebnn_mm.files.atomic, rebnn_mm.files.bits, rebnn_mm.files.oscillation
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_for_results_is_asked_for_before_the_work(tmp_path):
    check_results_folder(tmp_path / "a" / "b")
    check_results_folder(str(tmp_path))
    assert not names(tmp_path)
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserFileError, match=f"cannot write {path}: Not a directory"):
            check_results_folder(path)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file_for_results_is_asked_for_before_the_work(tmp_path):
    (tmp_path / "there").write_text("kept")
    check_results_file(tmp_path / "new")
    check_results_file(str(tmp_path / "there"))
    assert names(tmp_path) == ["there"] and (tmp_path / "there").read_text() == "kept"
    for path, message in (
        (tmp_path, "it is a folder"),
        (tmp_path / "no" / "m", "no does not exist: make it first"),
        ("/proc/m", "cannot write /proc/m"),
    ):
        with pytest.raises(UserFileError, match=message):
            check_results_file(path)


def test_a_file_is_not_written_over_itself(tmp_path):
    (tmp_path / "a").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    refuse_same_file(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="is the file that is to be read"):
        refuse_same_file(tmp_path / "a", tmp_path / "link")
