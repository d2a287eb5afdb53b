"""The bytes of one layer of the delegate in an ExecuTorch program; ``runtime/src/blob.hpp`` reads them.

All numbers are little-endian::

    offset  size
         0     8  MAGIC
         8     4  VERSION
        12     4  CRC-32 (that of zlib) of everything from offset 16 on
        16     8  size of the whole blob
        24     4  kind: 0 a 1-bit convolution, 1 a 1-bit linear layer, 2 a real-valued convolution, 3 nearest upsampling
        28     4  flags: the sum of the Flags that hold
        32    88  c_in, c_out, kernel (h, w), stride, padding, dilation, groups: 11 signed 64-bit integers
       120    16  lowest and highest value of the clamp: 2 doubles
       136    20  places among the delegate's arguments of x, residual, floats and signs of the result, -1 for what is
                  not there; then the number of arguments: 5 signed 32-bit integers
       156     4  0
       160   128  bytes of each part, the weight's bits and the vectors of TENSORS; -1 for what is not there: 16
                  signed 64-bit integers
       288        the parts that are there, in this order, each filled up with zeros to a multiple of 16

Results come behind inputs. A vector is float32; the bits are those of :mod:`rebnn_mm.deploy.operation.bits`.
Of a real-valued convolution the weight is float32, (C_out, K_h, K_w, C_in), and its only vectors are scale and offset;
it has a clamp, one group and no dilation, and stride and padding are alike in both directions.
Nearest upsampling has no clamp, no vectors and a weight of 0 bytes; its strides are how often a pixel is repeated.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntFlag

import torch
from torch import Tensor

from rebnn_mm.deploy.operation.bits import check_bits
from rebnn_mm.deploy.operation.checks import check_float, check_vector
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import TENSORS, Epilogue, InputSide, checked, tensors_of

MAGIC = b"REBNNDEL"
VERSION = 1
_ALIGNMENT = 16


class Flags(IntFlag):
    """What is not said by the presence of a part."""

    CLAMP = 1
    RESIDUAL_LAST = 2
    SIGNS_IN = 4
    """The input is signs."""
    MAX_POOL = 8
    """3x3 windows of stride 2 and padding 1, behind a real-valued convolution."""


@dataclass(frozen=True)
class Places:
    """Places among a delegate's arguments, inputs first; None for what is not there.

    Attributes:
        x, residual: Of the inputs.
        floats, signs: Of the results.
        count: The number of arguments.
    """

    x: int
    residual: int | None
    floats: int | None
    signs: int | None
    count: int

    def ints(self) -> list[int]:
        """The blob's five integers."""
        return [
            *(-1 if place is None else place for place in (self.x, self.residual, self.floats, self.signs)),
            self.count,
        ]


def write_blob(
    bits: Tensor,
    spec: ConvSpec,
    before: InputSide,
    after: Epilogue,
    places: Places,
    linear: bool = False,
    signs_in: bool = False,
) -> bytes:
    """The blob of a layer.

    Args:
        bits: As for :class:`rebnn_mm.deploy.layers.plan.Conv2dPlan`, like the next three.
        spec: Sizes.
        before: Steps in front of the sign.
        after: Steps behind the convolution.
        places: Where the delegate finds its tensors.
        linear: Channels are the last dimension of the input.
        signs_in: The input is signs.

    Raises:
        TypeError, ValueError: An argument that does not fit, named.
    """
    check_bits(bits, spec.weight_shape)
    before, after = checked(spec, before, after)
    if (places.floats is not None) != after.floats or (places.signs is not None) != (after.sign is not None):
        raise ValueError(f"the results at {places} are not those of the layer")
    if signs_in and before != InputSide():
        raise ValueError("signs come behind shift and norm: this layer has a shift or norm of its own")
    tensors = tensors_of(before, after)
    flags = Flags.CLAMP * (after.clamp is not None) + Flags.RESIDUAL_LAST * after.residual_last
    flags += Flags.SIGNS_IN * signs_in
    return _blob(int(linear), flags, spec, after.clamp or (0.0, 0.0), places, bits.numpy().tobytes(), tensors)


def write_real_blob(
    weight: Tensor,
    spec: ConvSpec,
    norm: tuple[Tensor, Tensor],
    clamp: tuple[float, float],
    max_pool: bool,
    places: Places,
) -> bytes:
    """The blob of a real-valued convolution, the arguments of ``rebnn_mm::real_conv2d``.

    Raises:
        TypeError, ValueError: An argument that does not fit, named.
    """
    check_float(weight, "the weight")
    alike = all(vertical == horizontal for vertical, horizontal in (spec.stride, spec.padding))
    if tuple(weight.shape) != spec.weight_shape or spec.groups != 1 or spec.dilation != (1, 1) or not alike:
        raise ValueError(f"a weight of one group, without dilation, alike in both directions; got {spec}")
    vectors = {n: check_vector(v, n, spec.c_out) for n, v in zip(("scale", "offset"), norm, strict=True)}
    flags = Flags.CLAMP + Flags.MAX_POOL * max_pool
    rows = weight.permute(0, 2, 3, 1).contiguous().numpy().astype("<f4").tobytes()
    return _blob(2, flags, spec, clamp, places, rows, vectors)


def write_nearest_blob(channels: int, times: tuple[int, int], places: Places) -> bytes:
    """The blob of nearest upsampling, the arguments of ``rebnn_mm::nearest2d``."""
    spec = ConvSpec((channels, channels, 1, 1), times)
    return _blob(3, Flags(0), spec, (0.0, 0.0), places, b"", {})


def _blob(
    kind: int,
    flags: int,
    spec: ConvSpec,
    clamp: tuple[float, float],
    places: Places,
    weight: bytes,
    vectors: dict[str, Tensor],
) -> bytes:
    parts = [weight, *(_floats(vectors.get(name)) for name in TENSORS)]
    body = struct.pack("<2I", kind, flags)
    sizes = (*spec.weight_shape[2:], *spec.stride, *spec.padding, *spec.dilation, spec.groups)
    body += struct.pack("<11q", spec.c_in, spec.c_out, *sizes)
    body += struct.pack("<2d", *clamp)
    body += struct.pack("<5iI", *places.ints(), 0)
    body += struct.pack("<16q", *(-1 if part is None else len(part) for part in parts))
    body += b"".join(part + bytes(-len(part) % _ALIGNMENT) for part in parts if part is not None)
    return seal(body)


def seal(body: bytes) -> bytes:
    """Put magic, version, checksum and size in front of what follows them."""
    sized = struct.pack("<Q", 24 + len(body)) + body
    return MAGIC + struct.pack("<2I", VERSION, zlib.crc32(sized)) + sized


def _floats(vector: Tensor | None) -> bytes | None:
    if vector is None:
        return None
    assert vector.dtype == torch.float32, "checked() says so"
    return vector.numpy().astype("<f4").tobytes()
