"""Long fuzzing of the loader, outside the default tests: python tests/deploy/file/fuzz_container.py [SECONDS] [SEED].

Mutates a sound file (a classifier in float32 or int8, a network of embeddings and attention in int8) in its header's
values or anywhere in its bytes, signs it anew so that the checksum holds, loads it, exact or not, and runs it. Anything
but a RebnnFileError, an input that is too small for what the file asks, or a run that works, is printed with the bytes
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
from torch import nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.deploy import Check, ModelCard, Preprocessing, RebnnFileError, export_model, load_model
from rebnn_mm.deploy.file.container import MAGIC, VERSION
from rebnn_mm.errors import UserError, UserTypeError
from rebnn_mm.layers import ReBNNLinear

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
    "int8",
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


class Words(nn.Module):
    """What has no place in a classifier: embeddings, attention, linear layers on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(50, 32), nn.Linear(32, 40)
        self.attend, self.fc = nn.MultiheadAttention(32, 2, batch_first=True), ReBNNLinear(32, 32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, L) -> (N, L, 40)."""
        x = self.fc(self.words(tokens))
        return self.out(x + self.attend(x, x, x, need_weights=False)[0])


def sound_files(folder: Path) -> list[tuple[bytes, torch.Tensor]]:
    """Bytes of files that load, each with an input."""
    card, image = ModelCard(preprocessing=Preprocessing((1.0,) * 3, (2.0,) * 3)), torch.randn(1, 3, 32, 32)
    tokens = torch.randint(0, 50, (2, 7))
    found = []
    for model, x, options in (
        (ReBNNResNet(18, base_channels=2), image, dict(card=card)),
        (ReBNNResNet(18, base_channels=8), image, dict(card=card, int8=True)),
        (Words().eval(), tokens, dict(check=Check([tokens]), int8=True)),
    ):
        export_model(model, folder / "sound.rebnn", **options)
        found.append(((folder / "sound.rebnn").read_bytes(), x))
    return found


def main() -> None:
    """Mutate until the time is over."""
    seconds, seed = [*map(int, sys.argv[1:]), *(60, 0)[len(sys.argv) - 1 :]]
    torch.set_num_threads(1)
    rng, results = random.Random(seed), Counter()
    folder = Path(tempfile.mkdtemp())
    sound, end = sound_files(folder), time.monotonic() + seconds
    while time.monotonic() < end:
        original, x = rng.choice(sound)
        data = mutate(original, rng)
        (folder / "m.rebnn").write_bytes(data)
        try:
            with torch.no_grad():
                load_model(folder / "m.rebnn", exact=rng.random() < 0.5)(x)
            results["runs"] += 1
        except RebnnFileError:
            results["refused"] += 1
        except Exception as error:
            if isinstance(error, UserError) and not isinstance(error, UserTypeError):
                results["refused the input"] += 1  # it is too small for what the file asks
                continue
            traceback.print_exc()
            kept = Path(f"fuzz_{hashlib.sha256(data).hexdigest()[:12]}.rebnn")
            kept.write_bytes(data)
            results["FOUND"] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(dict(results), f"peak memory {peak} MB")


if __name__ == "__main__":
    main()
