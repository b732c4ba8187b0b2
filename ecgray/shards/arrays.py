"""Arrays in .npy files: the header is compared with what it must be, never evaluated, before any memory is taken.

``numpy.load`` would take a zip archive for an array, and allocate whatever size a header names.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ecgray.errors import EcgrayError
from ecgray.shards.cache import RemoteFile

_MAGIC = b"\x93NUMPY\x01\x00"
_LONGEST = 2048
"""Bytes of a header: numpy's are of 118, and the first number is to lie in the file's first page."""
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': False, 'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), ?\}\s*"
)
_ADVICE = "copy the shard set again or ingest again"


def read_header(
    stream: BinaryIO, file: Path | RemoteFile, dtype: npt.DTypeLike, shape: tuple[int | None, ...]
) -> tuple[int, tuple[int, ...]]:
    """Where in the open ``file`` its numbers begin, and their shape; None in ``shape`` is any length.

    Raises EcgrayError for a file of another type or shape, or not exactly as long as its header says.
    """
    kind = np.dtype(dtype)
    try:
        start = stream.read(10)
        length = int.from_bytes(start[8:], "little")
        header = _HEADER.fullmatch(stream.read(min(length, _LONGEST))) if start[:8] == _MAGIC else None
        if header is None or length > _LONGEST:
            raise EcgrayError(f"'{file}' must be a whole .npy file of numbers, got another one; {_ADVICE}.")
        found = tuple(int(side) for side in header[2].decode().split(",") if side.strip())
        right = len(found) == len(shape) and all(side in (None, got) for side, got in zip(shape, found, strict=True))
        if header[1].decode() != kind.str or not right:
            wanted = tuple("any" if side is None else side for side in shape)
            raise EcgrayError(
                f"'{file}' must be {kind.str} of shape {wanted}, got {header[1].decode()} of {found}; {_ADVICE}."
            )
        expected = math.prod(found) * kind.itemsize
        held = os.fstat(stream.fileno()).st_size - stream.tell()
        if held != expected:
            raise EcgrayError(f"'{file}' must hold {expected} bytes after its header, got {held}; {_ADVICE}.")
        if stream.tell() % kind.itemsize:
            raise EcgrayError(f"'{file}' must begin its numbers at a multiple of their size; {_ADVICE}.")
        return stream.tell(), found
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, EcgrayError):
            raise
        raise EcgrayError(f"'{file}' must be a whole .npy file, got: {error}; {_ADVICE}.") from error
