"""The bytes of oscillation.bin: what is written is read, and what is damaged is named."""

import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_disk import run_on_small_disk

from rebnn_mm.analysis import read_oscillation
from rebnn_mm.files.oscillation import (
    BINS,
    COLUMNS,
    FILE_NAME,
    MAGIC,
    Header,
    OscillationFileError,
    OscillationWriter,
    pool,
    read_chunks,
)

HEADER = Header(("a", "b.c"), (36, 80), (4, 8), 10, 3, 0.1, 50)


def values(seed=0):
    return np.random.default_rng(seed).random((2, len(COLUMNS)), np.float32)


def write(path, number=3, header=HEADER):
    writer = OscillationWriter(path / FILE_NAME, header)
    writer.histogram(0, 0, 0.5, np.arange(BINS))
    for index in range(number):
        writer.record(10 * (index + 1), values(index))
    writer.histogram(10 * number, 2, 0.25, np.arange(BINS)[::-1])
    return path / FILE_NAME


def test_round_trip(tmp_path):
    record = read_oscillation(write(tmp_path))
    assert record.header == HEADER and record.iteration.tolist() == [10, 20, 30] and not record.cut_off
    np.testing.assert_array_equal(record.epoch, [0.2, 0.4, 0.6])
    for column, name in enumerate(COLUMNS):
        np.testing.assert_array_equal(record.values[name], [values(index)[:, column] for index in range(3)])
    assert record.first_channel.total == 9 and record.first_channel.edges(0)[[0, -1]].tolist() == [-0.5, 0.5]
    assert list(record.histograms) == ["b.c"] and record.histograms["b.c"].counts[0, 0] == BINS - 1
    share = record.histograms["b.c"].counts.sum() / 80
    assert record.histograms["b.c"].density().sum() * 0.5 / BINS == pytest.approx(share)
    assert read_oscillation(tmp_path).path == record.path


def test_bytes_are_those_of_the_docstring(tmp_path):
    data = write(tmp_path, number=1).read_bytes()
    assert data[:8] == b"\x89RBOSC\n\x01" == MAGIC
    at, kinds = 8, []
    while at < len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        end = at + 8 + size
        assert zlib.crc32(data[at:end]) == struct.unpack_from("<I", data, end)[0]
        kinds.append((kind, data[at + 8 : end]))
        at = end + 4
    assert [kind for kind, _ in kinds] == [b"HEAD", b"HIST", b"STAT", b"HIST"]
    assert json.loads(kinds[0][1])["layers"] == ["a", "b.c"]
    assert struct.unpack_from("<QIf", kinds[1][1]) == (0, 0, 0.5)
    assert struct.unpack("<Q22f", kinds[2][1]) == (10, *values().ravel().tolist())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_is_read_up_to_there_or_refused(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("cut"))
    whole = path.read_bytes()
    ends = [8, *(chunk.end for chunk in read_chunks(path))]
    size = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:size])
    if size < ends[1]:
        with pytest.raises(OscillationFileError, match="cut off|no oscillation record"):
            read_oscillation(path)
        return
    record = read_oscillation(path)
    assert record.cut_off == (size not in ends)
    assert len(record.iteration) == sum(end <= size for end in ends[3:6])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_byte_is_noticed(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("damage"))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        assert read_oscillation(path).cut_off  # a size that now points behind the end
    except OscillationFileError as error:
        assert str(path) in str(error)


def test_what_is_no_record_gets_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: give a work dir"):
        read_oscillation(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no oscillation.bin: train with dict\(type='OscillationHook'\)"):
        read_oscillation(tmp_path)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(OscillationFileError, match="no oscillation record: it starts with b'.x89PNG"):
        read_oscillation(tmp_path / "image.png")
    with pytest.raises(ValueError, match="column 'flips' is not recorded; there are flip_share"):
        read_oscillation(write(tmp_path)).network("flips")


def test_resuming_cuts_later_records_and_a_torn_end(tmp_path):
    path = write(tmp_path)
    with open(path, "ab") as file:
        file.write(b"STAT\x60\x00\x00")
    writer = OscillationWriter(path, HEADER, resume_at=25)
    assert not writer.is_new
    writer.record(30, values(9))
    record = read_oscillation(path)
    assert record.iteration.tolist() == [10, 20, 30] and not record.cut_off and not record.histograms
    np.testing.assert_array_equal(record.values["flip_share"][2], values(9)[:, 0])


def test_resuming_with_another_model_is_refused_and_a_fresh_run_starts_anew(tmp_path):
    path = write(tmp_path)
    other = Header(("a",), (36,), (4,), 10, 3, 0.1, 50)
    with pytest.raises(OscillationFileError, match="another layers, weights, channels than this run's"):
        OscillationWriter(path, other, resume_at=20)
    assert len(read_oscillation(path).iteration) == 3
    assert OscillationWriter(path, other).is_new
    assert read_oscillation(path).header == other and not list(tmp_path.glob(".*"))


def test_layers_are_pooled_by_weights_channels_norm_and_maximum():
    table = np.array([[0.5, 0.1], [np.nan, 0.2], [np.nan, np.nan]])
    np.testing.assert_allclose(pool(table, "weights", HEADER), [(36 * 0.5 + 80 * 0.1) / 116, 0.2, np.nan])
    np.testing.assert_allclose(pool(table, "channels", HEADER), [(4 * 0.5 + 8 * 0.1) / 12, 0.2, np.nan])
    np.testing.assert_allclose(pool(table, "norm", HEADER), [np.hypot(0.5, 0.1), 0.2, np.nan])
    np.testing.assert_allclose(pool(table, "max", HEADER), [0.5, 0.2, np.nan])


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 1, 20, 63])
def test_a_chunk_that_does_not_fit_is_taken_back(tmp_path, room):
    code = f"""
import sys
from pathlib import Path
from rebnn_mm.files.oscillation import OscillationWriter
from test_oscillation import HEADER, values, write
path = write(Path(sys.argv[1]))
writer = OscillationWriter(path, HEADER, resume_at=30)
before = path.read_bytes()
with small_disk(len(before) + {room}):
    for iteration in (40, 50):
        try:
            writer.record(iteration, values())
        except OSError as error:
            print(error.strerror)
assert path.read_bytes() == before
writer.record(60, values())
"""
    done = run_on_small_disk(code, tmp_path, folder="files")
    assert done.returncode == 0 and done.stdout.splitlines() == ["File too large"] * 2, done.stderr
    record = read_oscillation(tmp_path)
    assert record.iteration.tolist() == [10, 20, 30, 60] and not record.cut_off


def test_a_file_that_another_program_changes_is_left_alone(tmp_path):
    writer = OscillationWriter(tmp_path / FILE_NAME, HEADER)
    other = OscillationWriter(tmp_path / FILE_NAME, HEADER, resume_at=0)
    other.record(10, values())
    content = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(OSError, match="was changed by another program"):
        writer.record(20, values())
    assert (tmp_path / FILE_NAME).read_bytes() == content
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(FileNotFoundError):
        other.record(20, values())
