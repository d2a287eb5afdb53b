import hashlib
import json
import struct
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebnn_mm.deploy.file import plain
from rebnn_mm.deploy.file.container import MAGIC, RebnnFileError, read_file, write_file
from rebnn_mm.deploy.file.tensors import BinaryTensor
from rebnn_mm.deploy.operation.bits import from_bits, to_bits

TENSORS = {
    "conv.weight": BinaryTensor(to_bits(torch.randn(5, 3, 3, 3)), (5, 3, 3, 3)),
    "fc.weight": torch.randn(4, 7),
    "fc.half": torch.randn(3).half(),
    "count": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "bytes": torch.arange(5, dtype=torch.uint8),
}
INFO = {"classes": ("disc", "square"), "note": "é", "config": {"scale": (1, 2.5), "none": None}}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("a$b") | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.rebnn"
    write_file(path, INFO, TENSORS)
    return path


def assemble(header, body=b"", version=2, **fields):
    """Bytes of a file with a valid checksum around any header; ``fields`` overrides the prefix."""
    data = header if isinstance(header, bytes) else zlib.compress(json.dumps(header).encode())
    body = bytes(-(64 + len(data)) % 64) + body
    size = fields.get("size", 64 + len(data) + len(body))
    prefix = struct.pack("<8sIIQQ", fields.get("magic", MAGIC), version, 0, fields.get("header_size", len(data)), size)
    return prefix + hashlib.sha256(prefix + data + body).digest() + data + body


def row(**changes):
    return {**dict(name="a", dtype="float32", shape=[2], offset=0, size=8), **changes}


def test_round_trip(file):
    loaded = read_file(file)
    assert loaded.info == INFO and list(loaded.tensors) == list(TENSORS) and loaded.size == file.stat().st_size
    for name, tensor in TENSORS.items():
        found = loaded.tensors[name]
        if isinstance(tensor, BinaryTensor):
            assert found.shape == tensor.shape and torch.equal(found.bits, tensor.bits)
        else:
            assert found.dtype == tensor.dtype and torch.equal(found, tensor)


def test_bytes_are_as_documented(file):
    """An independent reader, by docs/format.md alone."""
    data = file.read_bytes()
    magic, version, reserved, header_size, size = struct.unpack_from("<8sIIQQ", data)
    assert (magic, version, reserved, size) == (b"\x89RBNN\r\n\x1a", 2, 0, len(data))
    assert hashlib.sha256(data[:32] + data[64:]).digest() == data[32:64]
    rows = json.loads(zlib.decompress(data[64 : 64 + header_size]))["tensors"]
    first = -(-(64 + header_size) // 64) * 64
    assert all((first + entry["offset"]) % 64 == 0 for entry in rows)
    weight = rows[0]
    assert weight["dtype"] == "bit" and weight["size"] == -(-5 * 3 * 3 * 3 // 8)
    bits = data[first + weight["offset"] :]
    signs = from_bits(TENSORS["conv.weight"].bits, (5, 3, 3, 3))
    for o, i, y, x in [(0, 0, 0, 0), (4, 2, 2, 1), (3, 1, 0, 2)]:
        place = ((o * 3 + y) * 3 + x) * 3 + i
        assert (bits[place // 8] >> place % 8 & 1) * 2 - 1 == signs[o, i, y, x]
    start = first + rows[1]["offset"]
    assert struct.unpack_from("<28f", data, start) == tuple(TENSORS["fc.weight"].flatten().tolist())


def test_writing_to_a_loaded_tensor_leaves_the_file_alone(file):
    before = file.read_bytes()
    read_file(file).tensors["fc.weight"].fill_(7)
    assert file.read_bytes() == before


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_plain_values_survive(value):
    assert repr(plain.loads(plain.dumps(value))) == repr(value)


def test_plain_refuses_objects_by_their_place():
    with pytest.raises(TypeError, match=r"model\.hooks\[1\] is a type"):
        plain.dumps({"model": {"hooks": [1, int]}})


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a":1,"a":2}', '{"$tuple":1}', '{"$tuple":[],"b":1}', '{"$x":1}', '{"$float":"1"}', "NaN", "[" * 10**5]
    + ['{"$dict":[1]}', '{"$dict":[[[1],2]]}', '{"$dict":[[1,2],[1,3]]}', "1" * 5000],
)
def test_plain_refuses_other_text(text):
    with pytest.raises(ValueError):
        plain.loads(text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_changed_byte_is_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("f") / "m.rebnn"
    write_file(path, INFO, TENSORS)
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "swap"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del content[at:]
    elif kind == "grow":
        content += bytes(data.draw(st.integers(1, 100)))
    else:
        other = (at + data.draw(st.integers(1, len(content) - 1))) % len(content)
        if content[at] == content[other]:
            return
        content[at], content[other] = content[other], content[at]
    path.write_bytes(content)
    with pytest.raises(RebnnFileError, match="no usable .rebnn file"):
        read_file(path)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda tail: MAGIC + struct.pack("<II", 1, 0) + tail))
def test_any_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("f") / "m.rebnn"
    path.write_bytes(content)
    with pytest.raises(RebnnFileError):
        read_file(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["bit", "float32", "a"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["tensors", "name", "dtype", "shape", "offset", "size", "$dict"]), inner)
    ),
)
ROWS = st.fixed_dictionaries(
    dict(
        name=st.sampled_from(["a", "b"]) | JSON,
        dtype=st.sampled_from(["bit", "float32", "uint8", "bool"]) | JSON,
        shape=st.lists(st.integers(-1, 1 << 70), max_size=9) | JSON,
        offset=st.integers(-1, 130) | JSON,
        size=st.integers(-1, 130) | JSON,
    )
)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(st.lists(ROWS, max_size=3).map(lambda rows: {"tensors": rows}) | JSON, st.binary(max_size=140))
def test_hostile_headers_with_a_valid_checksum(tmp_path_factory, header, body):
    path = tmp_path_factory.mktemp("f") / "m.rebnn"
    path.write_bytes(assemble(header, body))
    try:
        tensors = read_file(path).tensors
    except RebnnFileError:
        return
    for tensor in tensors.values():  # accepted: then all of it lies within the file
        data = tensor.bits if isinstance(tensor, BinaryTensor) else tensor
        assert data.numel() * data.element_size() <= len(body)
        data.sum()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"PK\x03\x04" + bytes(100), "starts with 50 4b 03 04"),
        (MAGIC.replace(b"\r\n", b"\n") + bytes(100), "not with 89 52"),
        (assemble({"tensors": []})[:40], "cut off after 40 bytes"),
        (assemble({"tensors": []}, version=1), "version 1.0, this release reads 2.0: export it again"),
        (assemble({"tensors": []}, size=1 << 40), "cut off"),
        (assemble({"tensors": []}) + b"x", "longer than it says"),
        (assemble({"tensors": []}, header_size=1 << 40), "more than is allowed"),
        (assemble(b"no zlib"), "malformed"),
        (assemble(zlib.compress(b"x" * (5 << 20))), "zlib stream of at most"),
        (assemble(zlib.compress(b'{"tensors":[]}') + b"tail"), "single zlib stream"),
        (assemble(zlib.compress(b"\xff")), "malformed"),
        (assemble(zlib.compress(b"[" * 100000)), "nested too deeply"),
        (assemble([]), "no object with a list of tensors"),
        (assemble({"tensors": [row(extra=1)]}), "other keys"),
        (assemble({"tensors": [row(dtype="float64")]}, bytes(8)), "'a' has the type 'float64'"),
        (assemble({"tensors": [row(offset=64)]}, bytes(72)), "the table says otherwise"),
        (assemble({"tensors": [row(shape=[1 << 40], size=4 << 40)]}), "no usable shape"),
        (assemble({"tensors": [row(shape=[True, 2])]}, bytes(8)), "no usable shape"),
        (assemble({"tensors": [row(dtype="bit", shape=[8], size=1)]}, bytes(1)), "no usable shape"),
        (assemble({"tensors": [row(), row(offset=64)]}, bytes(72)), "named twice"),
        (assemble({"tensors": [row()]}, bytes(16)), "its tensors end at"),
        (assemble({"tensors": [row(name="x" * 600)]}, bytes(8)), "1 to 512 characters"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, content, message):
    path = tmp_path / "m.rebnn"
    path.write_bytes(content)
    with pytest.raises(RebnnFileError, match=message):
        read_file(path)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.rebnn"):
        with pytest.raises(FileNotFoundError, match="is not a file"):
            read_file(path)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'a' has the type torch.float64"):
        write_file(tmp_path / "m", {}, {"a": torch.zeros(1, dtype=torch.float64)})
    with pytest.raises(ValueError, match="its shape"):
        write_file(tmp_path / "m", {}, {"a": BinaryTensor(torch.zeros(1, dtype=torch.uint8), (4, 4))})
    with pytest.raises(ValueError, match="Store a shorter config"):
        write_file(tmp_path / "m", {"config": "x" * (5 << 20)}, {})
