"""One ingest at a time in a folder; the lock falls with the process that holds it, however that dies."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ecgray.errors import EcgrayError
from ecgray.shards.manifest import NAME, WORK


@contextmanager
def locked(out: Path) -> Iterator[Path]:
    """The working folder ``out/.ingest``, held by this process alone; gone again once ``out`` has its manifest.

    It also goes, and ``out`` if nothing else is in it, when the ingest failed before it wrote a shard. Raises
    EcgrayError when another process holds it, and OSError where the folder cannot be made.
    """
    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EcgrayError(f"'{out}' must be written by one ingest, got another at work; wait for it.") from None
        if not _same_file(handle.fileno(), work / "lock"):  # the holder finished between our open and our lock
            raise EcgrayError(f"'{out}' must be written by one ingest, got another that just ended; try again.")
        try:
            yield work
        finally:
            begun = (work / "plan.json").exists() and any(entry.name != WORK for entry in out.iterdir())
            if (out / NAME).exists() or not begun:
                shutil.rmtree(work)
                with suppress(OSError):  # a folder with a set, or with other files, stays
                    out.rmdir()


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
