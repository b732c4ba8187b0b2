"""What a file is that is no WFDB record, told by its first bytes, so that it is named and not only missed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ecgray.errors import counted

_HEAD = 4096
"""Bytes of a file that are looked at."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xffBIOSEMI", "BDF"),
    (0, b"ISHNE1.0", "ISHNE"),
    (0, b"ANN  1.0", "ISHNE annotation"),
    (128, b"DICM", "DICOM"),
    (16, b"SCPECG", "SCP-ECG"),
    (0, b"MATLAB 7.3 MAT-file", "MATLAB"),
    (0, b"MATLAB 5.0 MAT-file", "MATLAB"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x93NUMPY", "NumPy"),
    (0, b"PAR1", "Parquet"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"\xfd7zXZ\x00", "xz archive"),
    (0, b"BZh", "bzip2 archive"),
    (0, b"\x28\xb5\x2f\xfd", "zstd archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (0, b"Rar!\x1a\x07", "RAR archive"),
    (257, b"ustar", "tar archive"),
)
"""(offset, bytes there, kind)."""

_SUFFIXES = {
    ".edf": "EDF",
    ".bdf": "BDF",
    ".dcm": "DICOM",
    ".scp": "SCP-ECG",
    ".mat": "MATLAB",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".npy": "NumPy",
    ".npz": "NumPy",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".parquet": "Parquet",
    ".xml": "XML",
    ".pkl": "pickle",
    ".zip": "zip archive",
    ".gz": "gzip archive",
    ".tgz": "gzip archive",
    ".xz": "xz archive",
    ".bz2": "bzip2 archive",
    ".7z": "7z archive",
    ".rar": "RAR archive",
    ".tar": "tar archive",
}
"""Kinds of what has no certain first bytes, or is not looked at."""

_NO_DATA = frozenset(
    (".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".png", ".jpg", ".jpeg", ".svg", ".json", ".py", ".sh", ".m")
)
"""Suffixes of what is read by people."""


def kind_of(file: Path, *, look: bool = True) -> str | None:
    """The kind of a file that may hold recordings and is not read; None for any other and for what is no file.

    ``look``: open it and read its first bytes (never a pipe, a device or a link); otherwise its name alone tells.
    """
    suffix = file.suffix.lower()
    if suffix in _NO_DATA:
        return None
    try:
        if not file.is_file():
            return None
        head = b""
        if look and not file.is_symlink():
            with file.open("rb") as stream:
                head = stream.read(_HEAD)
        size = os.path.getsize(file)
    except OSError:
        return _SUFFIXES.get(suffix)
    if head[:8] == b"0       " and head[184:192].strip().isdigit():
        return "EDF"
    found = next((kind for at, magic, kind in _MAGIC if head[at : at + len(magic)] == magic), None)
    if found is not None:
        return found
    if head[:4] == b"PK\x03\x04":
        return "NumPy" if suffix == ".npz" else "zip archive"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" or head[:4] in (b"\xff\xfe<\0", b"\xfe\xff\0<"):
        return _kind_of_xml(head.replace(b"\0", b""))
    return _SUFFIXES.get(suffix) if size else None


def _kind_of_xml(head: bytes) -> str | None:
    low = head.lower()
    for mark, kind in (
        (b"annotatedecg", "aECG (XML)"),
        (b"restingecgdata", "Philips XML"),
        (b"restingecg", "MUSE XML"),
    ):
        if mark in low:
            return kind
    return None if b"<html" in low or b"<!doctype html" in low or b"<svg" in low else "XML"


def is_archive(kind: str) -> bool:
    """Whether files may lie inside it."""
    return kind.endswith(" archive")


def listed_kinds(kinds: Sequence[tuple[str, int]]) -> str:
    """ "3 EDF files and 1 DICOM file"."""
    words = [counted(count, kind if is_archive(kind) else f"{kind} file") for kind, count in kinds]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def advice(kinds: Sequence[tuple[str, int]]) -> str:
    """How who has such files goes on."""
    archives = sum(count for kind, count in kinds if is_archive(kind))
    if 2 * archives > sum(count for _, count in kinds):
        return "unpack it and give the folder of its records" if archives == 1 else "unpack them and give their folder"
    return "write the signals as WFDB records (wfdb.wrsamp of Python's wfdb does) and give the folder of those"
