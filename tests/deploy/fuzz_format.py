"""Long fuzzing of the loader, outside the default tests: python tests/deploy/fuzz_format.py [SECONDS] [SEED].

Mutates a sound classifier file, in its header's values or anywhere in its bytes, signs it anew so that the checksum
holds, loads it and runs it. Anything but a RebnnFileError, or a run that works, is printed with the bytes
kept in fuzz_<hash>.rebnn; add what it finds to test_format.py or test_runtime.py.
"""

import copy
import hashlib
import json
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path

import torch

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.deploy import ModelCard, Preprocessing, RebnnFileError, export_model, load_model
from rebnn_mm.deploy.format import MAGIC, VERSION

ODD = [
    None,
    True,
    -1,
    0,
    1,
    3,
    7,
    1 << 31,
    1 << 63,
    1 << 70,
    -(1 << 40),
    0.5,
    1e308,
    "",
    "bit",
    "rgb",
    [],
    {},
    [1],
    {"$tuple": []},
]


def sign(header: bytes, body: bytes) -> bytes:
    """File of a compressed header and what follows it, with a valid prefix."""
    prefix = struct.pack("<8sIIQQ", MAGIC, VERSION, 0, len(header), 64 + len(header) + len(body))
    return prefix + hashlib.sha256(prefix + header + body).digest() + header + body


def parts(value, path=()):
    """Paths of all values in a header."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from parts(item, (*path, key))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One sound file -> one that is wrong somewhere, or by luck is not."""
    size = struct.unpack_from("<Q", data, 16)[0]
    text, body = zlib.decompress(data[64 : 64 + size]), bytearray(data[64 + size :])
    header = json.loads(text)
    kind = rng.choice(["header", "header", "header", "text", "body", "zlib", "raw"])
    if kind == "header":
        for _ in range(rng.randint(1, 3)):
            header = copy.deepcopy(header)
            *where, last = rng.choice([path for path in parts(header) if path])
            place = header
            for key in where:
                place = place[key]
            choice = rng.random()
            if choice < 0.2:
                del place[last]
            elif choice < 0.4 and isinstance(place[last], int):
                place[last] += rng.choice([-64, -1, 1, 64])
            else:
                place[last] = rng.choice(ODD)
    elif kind == "text":
        changed = bytearray(text)
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        return sign(zlib.compress(bytes(changed)), pad(changed, body))
    elif kind == "body":
        for _ in range(rng.randint(1, 8)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        return sign(data[64 : 64 + size], bytes(body))
    elif kind == "zlib":
        packed = bytearray(data[64 : 64 + size])
        packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        return sign(bytes(packed), bytes(body))
    elif kind == "raw":
        raw = bytearray(data)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(raw[: rng.randrange(len(raw))] if rng.random() < 0.5 else raw)
    text = json.dumps(header).encode()
    return sign(zlib.compress(text), pad(text, body))


def pad(text: bytes, body: bytes) -> bytes:
    """Tensors behind a new header: the alignment in front of them is that of its size."""
    return bytes(-(64 + len(zlib.compress(bytes(text)))) % 64) + bytes(body).lstrip(b"\0")


def main() -> None:
    """Mutate until the time is over."""
    seconds, seed = [*map(int, sys.argv[1:]), *(60, 0)[len(sys.argv) - 1 :]]
    torch.set_num_threads(1)
    rng, results = random.Random(seed), Counter()
    folder = Path(tempfile.mkdtemp())
    net = ReBNNResNet(18, base_channels=2)
    export_model(net, folder / "sound.rebnn", ModelCard(preprocessing=Preprocessing((1.0,) * 3, (2.0,) * 3)))
    sound, end = (folder / "sound.rebnn").read_bytes(), time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(sound, rng)
        (folder / "m.rebnn").write_bytes(data)
        try:
            with torch.no_grad():
                load_model(folder / "m.rebnn")(torch.randn(1, 3, 32, 32))
            results["runs"] += 1
        except RebnnFileError:
            results["refused"] += 1
        except Exception:
            traceback.print_exc()
            kept = Path(f"fuzz_{hashlib.sha256(data).hexdigest()[:12]}.rebnn")
            kept.write_bytes(data)
            results["FOUND"] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(dict(results), f"peak memory {peak} MB")


if __name__ == "__main__":
    main()
