"""The node's cache of files on object storage: each is fetched once, checked, shared by all processes, and bounded.

    files/<sha256>                       a whole file, named by its content
    files/<sha256>.<bytes>.partial       one on its way, locked by the process that fetches it
    lock                                 taken while room is made, and while a file gets its name
    held                                 the bytes in files/, what is on its way with all that it will have
    runs/, work/                         copies of run folders (``ecgray.shards.working``), which the bound leaves out

``ECGRAY_CACHE`` is the folder (default ~/.cache/ecgray), ``ECGRAY_CACHE_GB`` its bound (100). Locks are the kernel's,
so that they fall with their process. A file gets its name when its SHA-256 is that of the manifest, and is removed, the
one that was used longest ago first, when room is needed and no process is reading it.

A file's bytes are counted in ``held`` before it is fetched, so that the number is never too small. It is too large
after a fetch that failed, and where files were removed by hand. The folder is looked at, and the number mended, when
the bound would be exceeded, and when no number is of this boot: a machine that lost its power may have lost the last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ecgray.errors import EcgrayError
from ecgray.shards.storage import download

FOLDER, BOUND = "ECGRAY_CACHE", "ECGRAY_CACHE_GB"
_BOUND_GB = 100.0
_AT_ONCE = 8
"""Files fetched side by side by one process."""
_WAIT_S = 10.0
"""How long a process waits for others to finish reading what would have to go."""
_TOUCH_S = 5.0
"""Uses closer together than this count as one."""
_KEPT = 0.95
"""Eviction goes on to this part of the bound, so that the next files fit without a look at the folder."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAME = re.compile(r"[0-9a-f]{64}(?:\.(\d+)\.partial)?")


def cache_folder() -> Path:
    """Where the cache of this machine lies."""
    given = os.environ.get(FOLDER) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ecgray")
    return Path(given).expanduser().absolute()


def cache_bound() -> int:
    """How many bytes of files the cache may hold."""
    text = os.environ.get(BOUND, "")
    try:
        bound = float(text) if text else _BOUND_GB
    except ValueError:
        bound = 0.0
    if not 0 < bound < 1e9:
        raise EcgrayError(f"{BOUND} must be a number of gigabytes above 0, got '{text}'; 100 is the default.")
    return int(bound * 1e9)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a shard set on object storage: its URL, and what its manifest says of it."""

    url: str
    bytes: int
    sha256: str

    def __str__(self) -> str:
        return self.url

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file, fetched into the cache unless it is there. It stays there as long as the stream is open.

        Raises EcgrayError when it is missing, when its content is not the manifest's, or when the cache has no room.
        """
        file = _files() / self.sha256
        while True:
            try:
                with _disk(f"'{self.url}'"):
                    stream = file.open("rb")
            except FileNotFoundError:
                _fetch(self)
                continue
            fcntl.flock(stream, fcntl.LOCK_SH)
            found = os.fstat(stream.fileno())
            if not found.st_nlink:  # removed between our open and our lock
                stream.close()
            elif found.st_size != self.bytes:
                stream.close()
                file.unlink(missing_ok=True)
            else:
                if time.time() - found.st_mtime > _TOUCH_S:
                    os.utime(stream.fileno())
                return stream


class Reader:
    """A stream of ``RemoteFile.open`` that is kept for later: what it reads may be evicted while nobody uses it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._users = stream, 0

    def take(self) -> bool:
        """Hold the file in the cache until ``give``; False when it is no longer there. The caller sees to it that one
        thread at a time takes and gives."""
        if not self._users:
            fcntl.flock(self._stream, fcntl.LOCK_SH)
            found = os.fstat(self._stream.fileno())
            if not found.st_nlink:
                return False
            if time.time() - found.st_mtime > _TOUCH_S:
                os.utime(self._stream.fileno())
        self._users += 1
        return True

    def give(self) -> None:
        self._users -= 1
        if not self._users:
            fcntl.flock(self._stream, fcntl.LOCK_UN)

    @property
    def gone(self) -> bool:
        """Whether the file was evicted; its space is free once nobody has it open or mapped."""
        return not self._users and not os.fstat(self._stream.fileno()).st_nlink

    def __del__(self) -> None:
        self._stream.close()


def fetch_all(files: Sequence[RemoteFile]) -> None:
    """Bring files into the cache side by side; those that are there cost a look."""
    missing = [file for file in files if not (_files() / file.sha256).exists()]
    if len(missing) > 1:
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(_fetch, missing))


def _files() -> Path:
    return cache_folder() / "files"


@contextlib.contextmanager
def _disk(what: str) -> Iterator[None]:
    """Says of an OSError which setting mends it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EcgrayError(
            f"The cache in {cache_folder()} must take {what}, got: {error.strerror or error}; "
            + (f"free some space, or lower {BOUND}." if full else f"mend the folder, or name another in {FOLDER}.")
        ) from error


def _fetch(file: RemoteFile) -> None:
    """Bring one file into the cache, or wait for the process that is doing it."""
    folder = _files()
    final, partial = folder / file.sha256, folder / f"{file.sha256}.{file.bytes}.partial"
    with _disk(f"'{file.url}'"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder)) from error
        while not final.exists():
            with partial.open("ab") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if not _is_still(handle, partial):
                    continue  # whoever had it is done, or it was removed as dead
                if final.exists():
                    partial.unlink()
                    return
                try:
                    _make_room(file, folder)
                    _download(file, partial)
                    os.fsync(handle.fileno())
                    with _locked(folder):  # or a look at the folder could miss it under both names
                        os.rename(partial, final)
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise


def _download(file: RemoteFile, partial: Path) -> None:
    try:
        download(file.url, partial)
    except FileNotFoundError as error:
        raise EcgrayError(
            f"'{file.url}' must exist, got nothing; copy the shard set there again or ingest again."
        ) from error
    size = partial.stat().st_size
    if size != file.bytes:
        raise EcgrayError(
            f"'{file.url}' must be of {file.bytes} bytes, got {size}; copy the shard set there again or ingest again."
        )
    with partial.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
            raise EcgrayError(
                f"'{file.url}' must have the SHA-256 of the manifest, got changed bytes; "
                "copy the shard set there again or ingest again."
            )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder.parent / "lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make_room(file: RemoteFile, folder: Path) -> None:
    """Count ``file``, whose partial file is there and locked; where it does not fit, evict until it does."""
    bound, deadline = cache_bound(), time.monotonic() + _WAIT_S
    if file.bytes > bound:
        raise _too_small(file, bound)
    while True:
        with _locked(folder):
            counted = _counted(folder)
            if counted is None or counted + file.bytes > bound:
                held = _look_and_evict(bound, folder)
            else:
                held = counted + file.bytes
            _count(held, folder)
            if held <= bound:
                return
        if time.monotonic() > deadline:
            raise _too_small(file, bound)
        time.sleep(0.1)


def _counted(folder: Path) -> int | None:
    """The bytes that were counted last, if that was in this boot and is written whole."""
    try:
        number, _, boot = (folder.parent / "held").read_text(encoding="ascii").partition(" ")
        return int(number) if boot and boot == _boot() else None
    except (OSError, ValueError):
        return None


def _count(held: int, folder: Path) -> None:
    # written over the old number: a file that was emptied first is put on the disk by some file systems, which takes
    # 100 times as long, with the lock held
    with open(os.open(folder.parent / "held", os.O_WRONLY | os.O_CREAT, 0o666), "wb") as stream:
        stream.write(f"{held} {_boot()}".encode("ascii"))
        stream.truncate()


def _boot() -> str:
    """This boot of the machine; empty where the kernel does not say."""
    try:
        return _BOOT.read_text(encoding="ascii")
    except OSError:
        return ""


def _look_and_evict(bound: int, folder: Path) -> int:
    """The bytes that the folder holds, evicted below the bound as far as nobody uses them.

    What is on its way counts with the size that it will have.
    """
    held: list[tuple[float, int, Path]] = []
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            with contextlib.suppress(FileNotFoundError):
                if match and match[1] is None:
                    found = entry.stat()
                    held.append((found.st_mtime, found.st_size, Path(entry.path)))
                    total += found.st_size
                elif match and not _remove_unless_used(Path(entry.path)):  # removed if its owner has died
                    total += int(match[1])
    if total > bound:
        for _, size, path in sorted(held):
            if total <= bound and total - size < _KEPT * bound:
                break
            if _remove_unless_used(path):
                total -= size
    return total


def _remove_unless_used(path: Path) -> bool:
    """Remove a file that no process holds; whether it is gone."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if _is_still(stream, path):
            path.unlink()
    return True


def _is_still(stream: BinaryIO, path: Path) -> bool:
    """Whether the open file is the one that bears the name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _too_small(file: RemoteFile, bound: int) -> EcgrayError:
    return EcgrayError(
        f"The cache must hold all shards that are read at once, got no room for '{file.url}' "
        f"({file.bytes / 1e9:.3g} GB) in {BOUND}={bound / 1e9:g}; raise {BOUND}, or lower sampling.pool_patients."
    )
