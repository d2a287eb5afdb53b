"""Files below a folder: links are followed, circles end, and hidden files are passed by."""

import os

import pytest

from rebnn_mm.errors import UserFileError
from rebnn_mm.files.images import counts_by_suffix, files_below


def test_linked_folders_are_entered_and_circles_end(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    for name in ("root/b.jpg", "root/a/1.jpg", "root/.hidden.jpg", "root/.folder/x.jpg", "other/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (root / "link").symlink_to(other)
    (root / "a" / "up").symlink_to(root)
    (other / "back").symlink_to(root)
    (root / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert [str(path.relative_to(root)) for path in files_below(root)] == ["a/1.jpg", "b.jpg", "link/2.jpg"]


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="the administrator reads everything")
def test_a_folder_that_may_not_be_read_gets_a_sentence(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(UserFileError, match="closed cannot be read .*: allow it, or move it away"):
        files_below(tmp_path)


def test_files_are_counted_by_their_endings():
    assert counts_by_suffix(["a.HEIC", "x/b.heic", "list"]) == "1 file(s) without suffix, 2 file(s) .heic"
    assert counts_by_suffix([]) == ""
