"""How WFDB's signal formats store samples, decoded in numpy; the compressed ones are FLAC.

The formats: https://physionet.org/physiotools/wag/signal-5.htm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Digital = npt.NDArray[np.signedinteger]


@dataclass(frozen=True)
class Format:
    """block_bytes hold block_samples samples, which ``decode`` makes of whole blocks, uint8 (n * block_bytes,);
    missing: the value that stands for a sample that is not there, None where the format has none. A compressed format
    (FLAC) has no blocks."""

    block_bytes: int
    block_samples: int
    missing: int | None
    decode: Callable[[Bytes], Digital]

    @property
    def compressed(self) -> bool:
        return self.block_bytes == 0

    @property
    def bytes_per_sample(self) -> Fraction:
        return Fraction(self.block_bytes, self.block_samples)


def every_first_of_212(packed: Bytes) -> npt.NDArray[np.int16]:
    """The low twelve bits of the first two of every three bytes."""
    pairs = np.ndarray((len(packed) // 3,), "<u2", packed, 0, (3,)) << 4
    # The twelve bits now stand at the top, so that the arithmetic shift brings the sign along.
    values = pairs.view(np.int16)
    values >>= 4
    return values


def every_second_of_212(packed: Bytes) -> npt.NDArray[np.int16]:
    """Of the last two of every three bytes: the third, below the upper half of the second."""
    pairs = np.ndarray((len(packed) // 3,), "<u2", packed, 1, (3,)).astype(np.uint16)
    upper = (pairs << 8).view(np.int16) >> 4
    upper &= ~np.int16(0xFF)
    pairs >>= 8
    upper |= pairs.view(np.int16)
    return upper


def decode_212(packed: Bytes) -> npt.NDArray[np.int16]:
    """Two 12-bit two's complement samples from every three bytes: uint8 (3 n,) -> int16 (2 n,)."""
    return np.stack([every_first_of_212(packed), every_second_of_212(packed)], axis=1).reshape(-1)


def _decode_310(packed: Bytes) -> npt.NDArray[np.int16]:
    """Ten bits above the lowest of each of two 16-bit words, and a third sample from the upper five bits of both."""
    first, second = packed.view("<u2").reshape(-1, 2).T
    third = (first & 0xF800) >> 11 | (second & 0xF800) >> 6
    return _ten_bits(np.stack([first >> 1, second >> 1, third], axis=1))


def _decode_311(packed: Bytes) -> npt.NDArray[np.int16]:
    """Three times ten bits of each 32-bit word, the lowest first."""
    words = packed.view("<u4")
    return _ten_bits(np.stack([words, words >> 10, words >> 20], axis=1).astype(np.uint16))


def _ten_bits(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.int16]:
    return ((values << 6).astype(np.uint16).view(np.int16) >> 6).reshape(-1)


def _decode_24(packed: Bytes) -> npt.NDArray[np.int32]:
    wide = np.zeros((len(packed) // 3, 4), np.uint8)
    wide[:, 1:] = packed.reshape(-1, 3)
    return (wide.view("<i4")[:, 0] >> 8).astype(np.int32)


def _plain(kind: str, zero: int = 0, out: type[np.signedinteger] = np.int16) -> Callable[[Bytes], Digital]:
    def decode(packed: Bytes) -> Digital:
        values = packed.view(kind)
        return (values - np.int32(zero)).astype(out) if zero else values.astype(out, copy=False)

    return decode


def _compressed(packed: Bytes) -> Digital:
    raise AssertionError("FLAC is read by soundfile, never block by block")


FORMATS: dict[str, Format] = {
    "8": Format(1, 1, None, _plain("i1")),  # differences; the reader sums them up
    "16": Format(2, 1, -(2**15), _plain("<i2")),
    "24": Format(3, 1, -(2**23), _decode_24),
    "32": Format(4, 1, -(2**31), _plain("<i4", out=np.int32)),
    "61": Format(2, 1, -(2**15), _plain(">i2")),
    "80": Format(1, 1, -(2**7), _plain("u1", 2**7)),
    "160": Format(2, 1, -(2**15), _plain("<u2", 2**15)),
    "212": Format(3, 2, -(2**11), decode_212),
    "310": Format(4, 3, -(2**9), _decode_310),
    "311": Format(4, 3, -(2**9), _decode_311),
    "508": Format(0, 1, -(2**7), _compressed),
    "516": Format(0, 1, -(2**15), _compressed),
    "524": Format(0, 1, -(2**23), _compressed),
}
