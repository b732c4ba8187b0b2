"""One writer at a time in a folder on object storage, which knows no locks of its own.

    lock/000007    JSON: who holds it, and a count that rises as long as he lives; or that it is free

A lock of the next number is made by a conditional put, which of several callers at once serves one. It is asked for
when the newest lock is free, when its holder is a dead process of this machine, or when its count has stood still for
``STALE_S`` seconds of the asking process's own clock. A holder that finds a newer lock than his has lost it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecgray.errors import EcgrayError
from ecgray.shards.storage import create_bytes, join, list_files, read_bytes, remove, write_bytes

BEAT_S = 10.0
STALE_S = 60.0
_FOLDER = "lock"
log = logging.getLogger(__name__)


class RemoteLock:
    """A lock that is held; ``check`` says so."""

    def __init__(self, folder: str, number: int, holder: dict[str, Any]) -> None:
        self.number = number
        self._folder, self._holder = folder, holder
        self._lost = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="ecgray-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises EcgrayError when another process has taken the folder over."""
        if self._lost.is_set():
            raise _lost(self._folder)

    def _beat(self) -> None:
        count = 0
        while not self._done.wait(BEAT_S):
            count += 1
            try:
                if max(_numbers(self._folder), default=0) > self.number:
                    self._lost.set()
                    return
                _write(self._folder, self.number, self._holder | {"count": count})
            except (EcgrayError, OSError) as error:
                log.warning("The lock of %s could not be renewed: %s", self._folder, error)

    def release(self) -> None:
        self._done.set()
        self._thread.join()
        if not self._lost.is_set():
            with contextlib.suppress(EcgrayError, OSError):  # it will be found stale
                _write(self._folder, self.number, {"free": True})


@contextlib.contextmanager
def remotely_locked(folder: str) -> Iterator[RemoteLock]:
    """Hold the folder ``folder`` on object storage; raises EcgrayError when a living process holds it."""
    lock = _acquire(folder)
    try:
        yield lock
    finally:
        lock.release()


def refuse_lost(folder: str, number: int) -> None:
    """Raises EcgrayError when the lock ``number`` of ``folder`` is no longer the newest: asked by whoever writes there
    on behalf of its holder, on whatever machine, right before."""
    if max(_numbers(folder), default=0) > number:
        raise _lost(folder)


def _lost(folder: str) -> EcgrayError:
    return EcgrayError(
        f"'{folder}' must be written by one process at a time, got another one that took it over while "
        f"this one was silent for more than {STALE_S:g} s; leave it to that one."
    )


def _acquire(folder: str) -> RemoteLock:
    holder = {
        "host": socket.gethostname(),
        "kernel": _kernel(),
        "pid": os.getpid(),
        "token": uuid.uuid4().hex,
        "count": 0,
    }
    numbers = _numbers(folder)
    newest = max(numbers, default=0)
    if newest and not _is_free(folder, newest):
        raise _held(folder, newest)
    if not create_bytes(_url(folder, newest + 1), json.dumps(holder).encode()):
        raise _held(folder, newest + 1)
    for number in numbers:
        remove(_url(folder, number))
    return RemoteLock(folder, newest + 1, holder)


def _is_free(folder: str, number: int) -> bool:
    """Whether the lock's holder has let it go, or is dead; watches it as long as that takes."""
    first = _read(folder, number)
    if first.get("free") or _dead_here(first):
        return True
    log.warning(
        "%s is held by process %s on %s; watching for %g s whether it lives.",
        folder,
        first.get("pid"),
        first.get("host"),
        STALE_S,
    )
    until = time.monotonic() + STALE_S
    while time.monotonic() < until:
        time.sleep(min(1.0, STALE_S / 5))
        now = _read(folder, number)
        if now != first:
            return bool(now.get("free"))
    return True


def _dead_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is gone."""
    pid = holder.get("pid")
    if holder.get("kernel") != _kernel() or type(pid) is not int:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _kernel() -> str:
    """What tells where process numbers mean the same: the boot, and the namespace of this process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex  # none that another process could have


def _held(folder: str, number: int) -> EcgrayError:
    holder = _read(folder, number)
    return EcgrayError(
        f"'{folder}' must be written by one process at a time, got process {holder.get('pid')} on "
        f"{holder.get('host')}, which is at it; wait for it or give another --out."
    )


def _numbers(folder: str) -> list[int]:
    return sorted(int(name) for name in list_files(join(folder, _FOLDER)) if name.isdigit())


def _read(folder: str, number: int) -> dict[str, Any]:
    """What a lock says; one that is gone, or unreadable, says nothing and is watched like any other."""
    try:
        values = json.loads(read_bytes(_url(folder, number)))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(folder: str, number: int, values: dict[str, Any]) -> None:
    write_bytes(_url(folder, number), json.dumps(values).encode())


def _url(folder: str, number: int) -> str:
    return join(folder, _FOLDER, f"{number:06d}")
