"""The file of a program: what ExecuTorch reads, and behind it a seal that tells damage and other versions.

ExecuTorch finds everything by offsets from the front, so what stands behind does not disturb it. A file that was cut
off or changed on its way would crash it, or give wrong results; the seal is what the run-time checks first::

    offset from the end  size
                    -32     8  MAGIC
                    -24     4  VERSION of this package's programs
                    -20     4  CRC-32 (that of zlib) of everything in front of the seal
                    -16     8  size of the file with the seal, little-endian as all numbers
                     -8     8  0
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from rebnn_mm.errors import MissingFileError, UserError, UserFileError

MAGIC = b"REBNNPTE"
VERSION = 1
SEAL_BYTES = 32


class ProgramFileError(UserError):
    """A file that is no sound program of this package."""


def sealed(program: bytes) -> bytes:
    """The program with its seal."""
    program += bytes(-len(program) % 16)
    return program + struct.pack("<8s2I2Q", MAGIC, VERSION, zlib.crc32(program), len(program) + SEAL_BYTES, 0)


def read_program(path: str | Path) -> bytes:
    """The program of a file, without the seal.

    Raises:
        MissingFileError: There is no file.
        ProgramFileError: It is damaged, of another version, or not written by this package.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path} is not there") from None
    except OSError as error:
        raise UserFileError(f"cannot read {path}: {error.strerror or error}") from None
    wrong = _wrong(data)
    if wrong:
        raise ProgramFileError(f"{path} {wrong}")
    return data[:-SEAL_BYTES]


def _wrong(data: bytes) -> str:
    seal = data[-SEAL_BYTES:]
    if len(data) < SEAL_BYTES + 8 or seal[:8] != MAGIC:
        return "is cut off, or no program that rebnn_mm exported: export it again"
    version, crc, size, zero = struct.unpack("<2I2Q", seal[8:])
    if version != VERSION:
        age = "an older" if version < VERSION else "a newer"
        return f"was exported by {age} version (program version {version}, this one reads {VERSION}): export it again"
    if size != len(data) or zero or zlib.crc32(data[:-SEAL_BYTES]) != crc:
        return "is damaged: its checksum is wrong; copy or export it again"
    return ""
