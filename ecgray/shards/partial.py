"""Files on their way: beside the one that each will be, under another name, locked by whoever writes them.

The lock falls with its process, however that dies and on whichever machine, so the next to write the same file can tell
a dead one's from a living one's. A process id in the name could not: it is given anew, and other machines have it too.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial-"
"""Between the name of a file and what tells one that is on its way to it from all others."""


@contextlib.contextmanager
def on_its_way(file: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside ``file``, open to be written and to be renamed; it is gone at the end where it was not.

    What dead processes left of ``file`` goes first: theirs was never whole.
    """
    remove_dead(file.parent, glob.escape(file.name))
    while True:
        partial = file.with_name(f"{file.name}{PARTIAL}{uuid.uuid4().hex[:12]}")
        with partial.open("xb") as stream:
            with contextlib.suppress(OSError):  # a disk without locks: nobody can take this one for dead there
                fcntl.flock(stream, fcntl.LOCK_EX)
            if not partial.exists():  # it was taken for dead before it was locked
                continue
            try:
                yield partial, stream
            finally:
                partial.unlink(missing_ok=True)  # a full disk needs the room
            return


def remove_dead(folder: Path, name: str) -> None:
    """Remove what processes left of files in ``folder`` that died as they wrote them; what a living one writes stays.

    name: of these files, or a pattern.
    """
    for partial in folder.glob(f"{name}{PARTIAL}*"):
        with contextlib.suppress(OSError), partial.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()
