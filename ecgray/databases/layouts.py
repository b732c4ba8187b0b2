"""Which known layout a folder has, so that an error can say which database to use."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from ecgray.errors import EcgrayError

_LIMIT = 20_000
"""Entries of one folder that are looked at when guessing."""


def require_folder(root: Path, database: str) -> None:
    """EcgrayError when ``root`` is missing, no folder, or empty."""
    if not root.exists():
        raise EcgrayError(f"{database} must be read from a folder, but {root} does not exist; check the path.")
    if not root.is_dir():
        raise EcgrayError(f"{database} must be read from a folder, but {root} is a file; give the folder it lies in.")
    try:
        empty = next(os.scandir(root), None) is None
    except OSError as error:
        raise EcgrayError(f"{root} must be readable, but is not ({error.strerror}); check its permissions.") from None
    if empty:
        raise EcgrayError(f"{database} must be read from a folder of records, but {root} is empty; download it first.")


def other_layout(root: Path, database: str, expected: str) -> EcgrayError:
    """The error for a folder without what ``database`` expects; names the database that would fit, or the subfolder.

    Of records in several folders below, or that only ``folder`` reads, the root itself is what ``folder`` takes whole.
    """
    seen = _layouts_below(root)
    above = [(parent, "icentia11k") for parent in root.resolve().parents[:2] if _is_icentia11k(parent)]
    wanted = [(place, name) for place, name in seen + above if name == database and place != root]
    others = [(place, name) for place, name in above + seen if name != database]
    place, name = next(iter(wanted + others), (root, None))
    scattered = sum(name in ("mitdb", "folder") for _, name in seen) > 1
    if name is None:
        hint = "check the path" + ("" if database == "folder" else ", or use the database 'folder'")
    elif place == root:
        hint = f"it looks like '{name}', use that database"
    elif name == "folder" or (name == "mitdb" and scattered):
        hint = f"'folder' takes every record below {root}, use that database there"
    else:
        advice = "give that folder" if name == database else "use that database there"
        hint = f"'{name}' was seen in {place}, {advice}"
    return EcgrayError(f"{database} must be read from a folder with {expected}, and {root} has none; {hint}.")


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
    groups = [child for child in _folders(root) if re.fullmatch(r"p\d\d", child.name)]
    return any(re.fullmatch(r"p\d{5}", patient.name) for group in groups[:3] for patient in _folders(group))


def _is_cinc2017(root: Path) -> bool:
    folder = root / "training2017"
    return any(re.fullmatch(r"REFERENCE.*\.csv", name) for name in _entries(folder if folder.is_dir() else root))


def _is_mitdb(root: Path) -> bool:
    names = set(_entries(root))
    return any(name.endswith(".hea") and f"{name[:-4]}.atr" in names for name in names)


def _is_folder(root: Path) -> bool:
    return any(name.endswith(".hea") for name in _entries(root))


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
            return list(islice(entries, _LIMIT))
    except OSError:
        return []  # what cannot be read gives no hint
