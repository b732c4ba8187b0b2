"""Which known layout a folder has, so that an error can say which database to use."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from ecgray.databases.kinds import advice, kind_of, listed_kinds
from ecgray.databases.walk import HEADER, Listing, is_companion, record_of, unread
from ecgray.errors import EcgrayError, counted

_LIMIT = 20_000
"""Entries of one folder that are looked at when guessing."""


def require_folder(root: Path, database: str) -> None:
    """EcgrayError when ``root`` is missing, no folder, or empty; of a file it says what it is."""
    if not root.exists():
        if header_of(root) is not None:
            raise EcgrayError(
                f"{database} must be read from a folder, but {root} is the name of a WFDB record; give the folder it"
                f" lies in, {root.parent}."
            )
        raise EcgrayError(f"{database} must be read from a folder, but {root} does not exist; check the path.")
    if not root.is_dir():
        raise EcgrayError(f"{database} must be read from a folder, but {root} is {what_file(root)}.")
    try:
        empty = next(os.scandir(root), None) is None
    except OSError as error:
        raise EcgrayError(f"{root} must be readable, but is not ({error.strerror}); check its permissions.") from None
    if empty:
        raise EcgrayError(f"{database} must be read from a folder of records, but {root} is empty; download it first.")


def header_of(path: Path) -> Path | None:
    """The WFDB record (its path without suffix) that ``path`` names: without suffix, by its header, or by another file
    of it; None where there is no such header."""
    for record in (path, record_of(path), path.with_suffix("")):
        if record.name and record.with_name(f"{record.name}{HEADER}").is_file():
            return record
    return None


def no_record(path: Path) -> str | None:
    """Why a path that was given as a record (without suffix) is none, and how to go on; None where it may be one."""
    if not path.is_file() or path.with_name(f"{path.name}{HEADER}").is_file():
        return None
    if (record := header_of(path)) is not None:
        return f"it is a file of the WFDB record {record.name}; give the record without suffix, {record}"
    kind = kind_of(path)
    return None if kind is None else f"it is a file of the kind {kind}, not read yet; {advice([(kind, 1)])}"


def what_file(file: Path) -> str:
    """What a file is that was given as a folder, and how to go on."""
    kind = kind_of(file)
    if (record := header_of(file)) is not None:
        return f"a file of the WFDB record {record.name}; give the folder it lies in, {file.parent}"
    if kind is not None:
        return f"a file of the kind {kind}, not read yet; {advice([(kind, 1)])}"
    return "a file; give the folder it lies in"


def other_layout(root: Path, database: str, expected: str, listing: Listing | None = None) -> EcgrayError:
    """The error for a folder without what ``database`` expects; names the database that would fit, or the subfolder.

    Of records in several folders below, or that only ``folder`` reads, the root itself is what ``folder`` takes whole.
    ``listing``: what lies there instead is named.
    """
    seen = _layouts_below(root)
    above = [(parent, "icentia11k") for parent in _parts_above(root)]
    wanted = [(place, name) for place, name in seen + above if name == database and place != root]
    others = [(place, name) for place, name in above + seen if name != database]
    place, name = next(iter(wanted + others), (root, None))
    scattered = sum(name in ("mitdb", "folder") for _, name in seen) > 1
    segments = sum(name == "icentia11k" for _, name in seen) > 1
    none = "none"
    if name is None:
        hint = "check the path" + ("" if database == "folder" else ", or use the database 'folder'")
        if listing is not None and listing.kinds:
            none = f"none, but {listed_kinds(listing.kinds)}, not read yet"
            hint = advice(listing.kinds)
        if listing is not None and listing.signals:
            files = counted(len(listing.signals), "signal file (.dat)", "signal files (.dat)")
            none = f"none, but {files} without a header"
            hint = "download their .hea files too"
        if listing is not None and listing.unread:
            none, hint = f"none; {unread(listing)}", "make them readable"
    elif name == "icentia11k" and segments:
        hint = f"'icentia11k' takes every segment below {root}, use that database there"
    elif place == root:
        hint = f"it looks like '{name}', use that database"
    elif name == "folder" or (name == "mitdb" and scattered):
        hint = f"'folder' takes every record below {root}, use that database there"
    else:
        advised = "give that folder" if name == database else "use that database there"
        hint = f"'{name}' was seen in {place}, {advised}"
    return EcgrayError(f"{database} must be read from a folder with {expected}, and {root} has {none}; {hint}.")


def refuse_part_of_icentia11k(root: Path) -> None:
    """EcgrayError where ``root`` is a group or a patient of a whole Icentia11K (p00 or p00/p00000)."""
    for parent in _parts_above(root):
        raise EcgrayError(
            f"icentia11k must be read whole, and {root} is a part of it; 'icentia11k' was seen in {parent}, give that"
            " folder."
        )


def _parts_above(root: Path) -> list[Path]:
    return [parent for parent in root.resolve().parents[:2] if _is_grouped(parent)]


def _layouts_below(root: Path, depth: int = 4, limit: int = 200) -> list[tuple[Path, str]]:
    """(folder, database name) of the known layouts in the root and below, the nearest first; none inside another."""
    seen, level = [], [root]
    for _ in range(depth):
        below: list[Path] = []
        for folder in level:
            if name := recognise(folder):
                seen.append((folder, name))
            else:
                below += _folders(folder)
        level = below[:limit]
    return seen


def recognise(root: Path) -> str | None:
    """The name of the database whose layout the folder has, None when it is none of the known ones."""
    return next((name for name, test in _TESTS.items() if test(root)), None)


def _is_icentia11k(root: Path) -> bool:
    """Segments in the published folders, in those of patients alone, or flat."""
    if any(re.fullmatch(r"p\d{5}_s\d+\.hea", name) for name in _entries(root)):
        return True
    patients = [child for child in _folders(root) if re.fullmatch(r"p\d{5}", child.name)]
    return _is_grouped(root) or any(
        re.fullmatch(rf"{patient.name}_s\d+\.hea", name) for patient in patients[:3] for name in _entries(patient)
    )


def _is_grouped(root: Path) -> bool:
    """The published folders: p00/p00000."""
    groups = [child for child in _folders(root) if re.fullmatch(r"p\d\d", child.name)]
    return any(re.fullmatch(r"p\d{5}", patient.name) for group in groups[:3] for patient in _folders(group))


def _is_cinc2017(root: Path) -> bool:
    folder = root / "training2017"
    return any(re.fullmatch(r"REFERENCE.*\.csv", name) for name in _entries(folder if folder.is_dir() else root))


def _is_mitdb(root: Path) -> bool:
    names = set(_entries(root))
    return any(name.endswith(HEADER) and f"{name.removesuffix(HEADER)}.atr" in names for name in names)


def _is_folder(root: Path) -> bool:
    return any(name.endswith(HEADER) for name in _entries(root))


_TESTS: dict[str, Callable[[Path], bool]] = {
    "icentia11k": _is_icentia11k,
    "cinc2017": _is_cinc2017,
    "mitdb": _is_mitdb,
    "folder": _is_folder,
}


def _entries(folder: Path) -> list[str]:
    return [entry.name for entry in _scan(folder)]


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _scan(folder) if entry.is_dir(follow_symlinks=False))


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(islice((entry for entry in entries if not is_companion(entry.name)), _LIMIT))
    except OSError:
        return []  # what cannot be read gives no hint
