"""Folders on object storage and their copies on this machine.

What is written goes into a working copy (``work/`` of the cache folder) and is published from there file by file; what
is read is copied (``runs/``) and brought up to date when it is read again. The storage holds the truth: a working copy
is made anew from it whenever work goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ecgray.errors import EcgrayError
from ecgray.shards.cache import cache_folder
from ecgray.shards.manifest import write_atomically
from ecgray.shards.partial import PARTIAL, on_its_way
from ecgray.shards.remote_lock import remotely_locked
from ecgray.shards.storage import download, is_remote, join, list_files, list_versions, resolve, upload

_AT_ONCE = 8
_TRIES = 3
_VERSIONS, _PULLING = ".versions.json", ".pull.lock"
NOT_OF_A_RUN = ("lock", _VERSIONS, _PULLING)
"""What may lie in a run folder before there is a run."""


def holds_other_files(folder: Path) -> bool:
    """Whether there is more in ``folder`` than a run leaves that was killed at its start: config.json comes last."""
    ours = (*NOT_OF_A_RUN, "environment.json", "config.json")
    return any(entry.name.split(PARTIAL)[0] not in ours for entry in folder.iterdir())


def working_folder(url: str) -> Path:
    """Where this machine keeps the working copy of ``url``."""
    return cache_folder() / "work" / _key(url)


def fetched(url: str, wanted: Callable[[str], bool]) -> Path:
    """A copy to read of the files below ``url`` whose names are wanted, as they are now."""
    folder = cache_folder() / "runs" / _key(url)
    pull(url, folder, wanted)
    return folder


def _key(url: str) -> str:
    return f"{url.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def working_copy(url: str, *, resume: bool, wanted: Callable[[str], bool]) -> Iterator[tuple[Path, int]]:
    """The working copy of the run at ``url``, which nobody else writes meanwhile, and the number of the lock that says
    so; removed when all went well.

    A URL with a run is refused without ``resume``; with it, the copy is made equal to what is published, as far as it
    is ``wanted``. One with other files is refused. Raises EcgrayError at the end, too, when somebody took the run over.
    """
    folder = working_folder(url)
    with remotely_locked(url) as lock:
        below = [name for name in list_files(url) if not name.startswith("lock/")]
        if "config.json" in below and not resume:
            raise EcgrayError(f"A run must go into a new folder, got {url}, which holds one; go on with --resume.")
        if below and "config.json" not in below and "environment.json" not in below:
            raise EcgrayError(
                f"A run must go into a new folder, got {url}, which holds other files; give another --out."
            )
        renew(url, folder, wanted if "config.json" in below else lambda name: False)
        yield folder, lock.number
        lock.check()
        shutil.rmtree(folder, ignore_errors=True)  # before the lock goes to one who makes his own copy here


def renew(url: str, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Make ``folder`` hold what is published at ``url``, and nothing else but the locks that processes hold there."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.suffix != ".lock":
            entry.unlink(missing_ok=True)
    pull(url, folder, wanted)


def pull(url: str, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Copy the wanted files below ``url`` into ``folder``; those that it has in the same version stay. Each file is
    whole or absent, and two processes do not work at one folder at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _PULLING).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):  # removed between the listing and our reading
                _pull(url, folder, wanted)
                return
    raise EcgrayError(f"'{url}' must stay as it is while it is read, got files that vanish; try again.")


def _pull(url: str, folder: Path, wanted: Callable[[str], bool]) -> None:
    index = folder / _VERSIONS
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):  # none, or torn: everything is copied
        known = dict(json.loads(index.read_bytes()))
    there = list_versions(url)
    for name in known.keys() - there.keys():
        (folder / name).unlink(missing_ok=True)
    listing = {name: version for name, version in there.items() if wanted(name)}

    def fetch(name: str) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with on_its_way(file.with_name(f".{file.name}")) as (partial, _):
            download(join(url, name), partial)
            os.replace(partial, file)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        changed = [n for n, version in listing.items() if known.get(n) != version or not (folder / n).is_file()]
        list(threads.map(fetch, changed))
    kept = {name: version for name, version in (known | listing).items() if name in there}
    write_atomically(index, json.dumps(kept).encode())


def push(folder: Path, url: str, names: Iterable[str]) -> None:
    """Publish files of ``folder`` under ``url``, in the order of ``names``."""
    for name in names:
        upload(folder / name, join(url, name))


@contextlib.contextmanager
def written(out: Path | str, *last: str) -> Iterator[Path]:
    """A folder to write into: ``out``, or for a URL an empty one of this machine, which is copied there afterwards
    (``last`` last, in that order) and removed. Whoever else writes to that URL from here waits."""
    if not is_remote(out):
        yield Path(out).expanduser().absolute()
        return
    url = resolve(out)
    folder = cache_folder() / "written" / _key(url)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that died
        folder.mkdir()
        try:
            yield folder
            names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            push(folder, url, sorted(names, key=lambda name: last.index(name) if name in last else -1))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
