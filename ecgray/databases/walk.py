"""The files in or below a folder, as every reader of folders sees them.

What other systems leave beside the files of a data set (``._rec.hea`` of a Mac, ``Thumbs.db``, a trash folder) is no
record and no folder of records. The rule stands here alone.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ecgray.databases.kinds import kind_of, listed_kinds
from ecgray.databases.wfdb_header import read_outline
from ecgray.errors import counted, plain

_COMPANIONS = re.compile(
    r"\._.*"  # AppleDouble: what a Mac's file has beside its bytes, where the volume cannot keep it
    r"|\.ds_store|\.localized|icon\r|__macosx|\.appledouble|\.spotlight-v100|\.fseventsd|\.temporaryitems"
    r"|\.documentrevisions-v100|\.trashes|\.trash|\.trash-\d+"
    r"|thumbs\.db|ehthumbs\.db|desktop\.ini|\$recycle\.bin|recycler|system volume information"
    r"|\.directory|lost\+found|\.nfs[0-9a-f]{8,}|\.fuse_hidden\w+"
    r"|@eadir|#recycle|@recycle|\.snapshot|\.zfs|\.stversions|\.stfolder|\.dropbox\.cache"
    r"|\.git|\.svn|\.hg|\.ipynb_checkpoints|__pycache__",
    re.IGNORECASE | re.DOTALL,
)
_COUNTED = 100_000
"""Files inside folders of other systems that are counted; a copy of the whole disk may lie there."""
_LOOKED_AT = 10_000
"""Files of unknown kind whose first bytes are looked at."""


HEADER = ".hea"
LABELS = "labels.csv"
"""The table of labels and patients that lies beside records, in the folder that is given."""


def record_of(header: Path) -> Path:
    """The record of a header: its path without the suffix, or any other path as it is."""
    return header.with_name(header.name.removesuffix(HEADER))


def is_companion(name: str) -> bool:
    """Whether a file or folder of that name is another system's, and no part of a data set."""
    return _COMPANIONS.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies in or below ``root``.

    headers: paths, without suffix, of the WFDB headers, sorted; signals: the ``.dat`` files beside which there is no
    header of their name; companions: files of other systems, of which ``companion`` is one; unread: (folder, reason) of
    those that could not be read; links: links to folders, which are not followed; kinds: files of kinds that are not
    read, by kind, of which ``other`` is one. Folders and files are named as below the root.
    """

    root: Path
    headers: tuple[Path, ...]
    signals: tuple[Path, ...] = ()
    companions: int = 0
    companion: str = ""
    unread: tuple[tuple[str, str], ...] = ()
    links: tuple[str, ...] = ()
    kinds: tuple[tuple[str, int], ...] = ()
    other: str = ""

    def remarks(self) -> list[str]:
        """One line per kind of what was left out."""
        told = []
        if n := self.companions:
            more = " or more" if n >= _COUNTED else ""
            files = counted(n, "companion file")
            told.append(f"{files}{more} of other systems {_were(n)} left out, as {plain(self.companion)}")
        if self.unread:
            told.append(unread(self))
        if n := len(self.links):
            told.append(
                f"{counted(n, 'link to a folder', 'links to folders')} {_were(n)} not followed: {_shown(self.links)}"
            )
        if self.kinds:
            n = sum(count for _, count in self.kinds)
            told.append(f"{listed_kinds(self.kinds)} {_were(n)} left out, not read yet, as {plain(self.other)}")
        if orphans := self._without_header():
            n, first = len(orphans), orphans[0].relative_to(self.root).as_posix()
            files = counted(n, "signal file (.dat) has", "signal files (.dat) have")
            told.append(f"{files} no header (.hea), and {_were(n)} left out, as {plain(first)}")
        return told

    def _without_header(self) -> list[Path]:
        """The ``.dat`` files that no header names."""
        if not self.signals:
            return []
        named = {path.parent / file for path in self.headers for file in read_outline(path).files}
        return [file for file in self.signals if file not in named]


def unread(listing: Listing) -> str:
    """The line on folders that could not be read, "" where there is none."""
    reasons = Counter(reason for _, reason in listing.unread)
    told = []
    for reason, n in sorted(reasons.items()):
        folders = _shown([folder for folder, why in listing.unread if why == reason])
        told.append(f"{counted(n, 'folder')} could not be read ({reason}): {folders}")
    return "; ".join(told)


def walk(root: Path, *, below: bool = True, tables: str = "") -> Listing:
    """What lies in ``root`` and, if ``below``, in its subfolders; the same on every platform, in any order of entries.
    ``tables``: pattern of the names of files in the root that the caller reads, and that are not left out.

    Links to folders are not followed. Raises OSError where the root itself cannot be read.
    """
    os.scandir(root).close()
    headers: list[Path] = []
    signals: list[Path] = []
    companions: list[str] = []
    unread: list[tuple[str, str]] = []
    links: list[str] = []
    kinds: Counter[str] = Counter()
    other = ""
    hidden = looked = 0

    def missed(error: OSError) -> None:
        unread.append((_below(root, error.filename), error.strerror or type(error).__name__))

    for folder, folders, files in os.walk(root, onerror=missed):
        folders.sort()
        foreign = [name for name in folders if is_companion(name)]
        for name in foreign:
            inside = list(_inside(os.path.join(folder, name), _COUNTED - hidden))
            hidden += len(inside)
            companions += [_below(root, file) for file in inside[:1]]
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name)) and name not in foreign]
        links += [_below(root, os.path.join(folder, name)) for name in linked] if below else []
        folders[:] = [name for name in folders if name not in foreign and name not in linked] if below else []
        names = []
        for name in sorted(files):
            if is_companion(name):
                hidden += 1
                companions += [_below(root, os.path.join(folder, name))][: not companions]
            else:
                names.append(name)
        stems = {name.removesuffix(HEADER) for name in names if name.endswith(HEADER)}
        headers += [Path(folder, stem) for stem in stems]
        for name in names:
            if _stem(name, stems):
                continue
            if name.endswith(".dat"):
                signals.append(Path(folder, name))
                continue
            looked += 1
            kind = kind_of(Path(folder, name), look=looked <= _LOOKED_AT)
            read = Path(folder) == root and re.fullmatch(tables, name) is not None
            if kind is not None and not read:
                other = other or _below(root, os.path.join(folder, name))
                kinds[kind] += 1
    return Listing(
        root=root,
        headers=tuple(sorted(headers)),
        signals=tuple(sorted(signals)),
        companions=hidden,
        companion=companions[0] if companions else "",
        unread=tuple(sorted(unread)),
        links=tuple(sorted(links)),
        kinds=tuple(sorted(kinds.items(), key=lambda one: (-one[1], one[0]))),
        other=other,
    )


def _stem(name: str, stems: set[str]) -> bool:
    """Whether the file is a header, or lies beside one of its name: ``r.dat``, ``r.atr``, ``r.qrs`` of r."""
    return name.rpartition(".")[0] in stems


def _inside(folder: str, most: int) -> Iterator[str]:
    """Files below a folder, ``most`` at most; what cannot be read holds none."""
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if most <= 0:
                return
            most -= 1
            yield os.path.join(where, name)


def _below(root: Path, path: str) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _shown(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(plain(name) for name in names[:most])) + more


def _were(n: int) -> str:
    return "was" if n == 1 else "were"
