"""Shards and their index; both ways with the webdataset library where it is installed."""

import io
import tarfile

import numpy as np
import pytest

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.files import shards
from rebnn_mm.files.shards import read_index, read_member, write_shard

SAMPLES = [("cat/a", ".jpg", b"first", 0), ("dog/b", ".png", b"the second", 1), ("dog/c", ".JPG", b"", 12)]


def tar(path, **members):
    """A tar file of members by name, ``__`` for a dot."""
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def test_what_was_written_is_found(tmp_path):
    assert write_shard(tmp_path / "a.tar", SAMPLES) == 3
    index = read_index(tmp_path / "a.tar")
    assert index.names == ("cat/a.jpg", "dog/b.png", "dog/c.JPG") and index.labels.tolist() == [0, 1, 12]
    for (_, _, data, _), offset, size in zip(SAMPLES, index.offsets, index.sizes, strict=True):
        assert read_member(tmp_path / "a.tar", int(offset), int(size)) == data


def test_the_index_is_kept_until_the_shard_changes(tmp_path, monkeypatch):
    write_shard(tmp_path / "a.tar", SAMPLES)
    first = read_index(tmp_path / "a.tar")
    with monkeypatch.context() as context:
        context.setattr(shards, "_scan", None)  # is not called again
        second = read_index(tmp_path / "a.tar")
    assert second.names == first.names and np.array_equal(second.offsets, first.offsets)
    write_shard(tmp_path / "a.tar", SAMPLES[:1])
    assert read_index(tmp_path / "a.tar").names == ("cat/a.jpg",)
    kept = tmp_path / "a.tar.index.npz"
    whole = kept.read_bytes()
    for damaged in (b"PK damaged", b"", whole[:200], whole[:-30]):
        kept.write_bytes(damaged)
        assert read_index(tmp_path / "a.tar").names == ("cat/a.jpg",)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (dict(a__jpg=b"x"), "1 images have no label, a.cls for example"),
        (dict(a__jpg=b"x", a__png=b"y", a__cls=b"0"), "'a' has two images, a.png is the second"),
        (dict(a__jpg=b"x", a__cls=b"cat"), "a.cls holds b'cat' and not the number"),
        (dict(a__jpg=b"x", a__cls=b"-1"), "not the number of a class"),
        (dict(a__txt=b"x", a__cls=b"1"), "no image with a label"),
        ({}, "no image with a label"),
    ],
)
def test_bad_shards_are_refused(tmp_path, members, sentence):
    with pytest.raises(UserError, match=sentence):
        read_index(tar(tmp_path / "a.tar", **members))


def test_files_that_are_no_shards(tmp_path):
    with pytest.raises(MissingFileError, match="a.tar does not exist"):
        read_index(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(UserError, match="is no uncompressed tar file"):
        read_index(tmp_path / "a.tar")
    write_shard(tmp_path / "b.tar", SAMPLES)
    with pytest.raises(UserError, match="ends before byte"):
        read_member(tmp_path / "b.tar", 0, 1 << 20)


def test_the_library_reads_what_was_written(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="optional: pip install webdataset")
    write_shard(tmp_path / "a.tar", SAMPLES)
    read = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in read] == ["cat/a", "dog/b", "dog/c"]
    assert [sample["cls"] for sample in read] == [b"0", b"1", b"12"] and read[0]["jpg"] == b"first"


def test_what_the_library_writes_is_read(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="optional: pip install webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "x/0001", "jpg": b"picture", "cls": 7, "json": dict(label=7)})
    index = read_index(tmp_path / "a.tar")
    assert index.names == ("x/0001.jpg",) and index.labels.tolist() == [7]
    assert read_member(tmp_path / "a.tar", int(index.offsets[0]), int(index.sizes[0])) == b"picture"
