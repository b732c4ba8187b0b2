"""Does a place keep what is written to it, how fast, and do all nodes see it?"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from ecgray.operations.checks import Check, State, one_line, verdict

T = TypeVar("T")
MEGABYTES = 64
PATIENCE_S = 120.0


def check_storage(url: str, read_on_nodes: Callable[[str], dict[str, Any]] | None = None) -> Check:
    """Writes a file at ``url`` (a folder, or s3://..., gs://...), reads it back, compares and removes it.

    ``read_on_nodes(file)`` gives {node: SHA-256 as read there, or an exception}. A local file is flushed to the disk
    and dropped from the page cache before it is read, so that both rates are the disk's.
    """
    try:
        written, faults, values = _with_patience(lambda: _round_trip(url, read_on_nodes))
    except ImportError as error:
        return Check("storage", "fail", f"{url}: {one_line(error)}", "Install what it names, e.g. pip install s3fs.")
    except Exception as error:  # whatever a file system of fsspec raises is its verdict
        return Check("storage", "fail", f"{url}: {one_line(error)}", _remedy(url))
    return verdict("storage", f"{url}: {written}", faults, values)


def _remedy(url: str) -> str:
    if "://" in url:
        return "Check the endpoint, the bucket's name and the credentials in the environment (AWS_*, GOOGLE_*)."
    return "Make the folder, mend its permissions, or free some space; or give another --storage."


def _round_trip(
    url: str, read_on_nodes: Callable[[str], dict[str, Any]] | None
) -> tuple[str, list[tuple[State, str, str]], dict[str, Any]]:
    from fsspec.core import url_to_fs

    system, folder = url_to_fs(url)
    local = "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))
    if local and not system.isdir(folder):
        raise NotADirectoryError("this is no folder" if system.exists(folder) else "this folder does not exist")
    name = f".ecgray-doctor-{uuid.uuid4().hex}"
    file, content = f"{folder.rstrip('/')}/{name}", os.urandom(MEGABYTES * 1_000_000)
    faults: list[tuple[State, str, str]] = []
    try:
        began = time.perf_counter()
        with system.open(file, "wb") as handle:
            handle.write(content)
            if local:
                handle.flush()
                os.fsync(handle.fileno())
        write_s = time.perf_counter() - began
        if local:
            with open(file, "rb") as plain:
                os.posix_fadvise(plain.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        with system.open(file, "rb") as handle:
            same = handle.read() == content
        read_s = time.perf_counter() - began
        if not same:
            faults.append(("fail", f"{url}: other bytes came back", "Do not keep anything there."))
        expected = _sha256(content)
        place = f"{url.rstrip('/')}/{name}" if not local else file
        for node, got in (read_on_nodes(place) if read_on_nodes else {}).items():
            if got != expected:
                reason = one_line(got) if isinstance(got, Exception) else "other bytes"
                text = f"{url} is not seen on {node} ({reason})"
                remedy = "All nodes must see one storage: mount it on all, or give a bucket's URL."
                faults.append(("fail", text, remedy))
    finally:
        if system.exists(file):
            system.rm(file)
    values = {"write_bytes_per_s": len(content) / write_s, "read_bytes_per_s": len(content) / read_s}
    rates = (values["write_bytes_per_s"] / 1e6, values["read_bytes_per_s"] / 1e6)
    return f"{rates[0]:,.0f} MB/s written, {rates[1]:,.0f} MB/s read back alike", faults, values


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def read_sha256(place: str) -> str:
    """SHA-256 of a file, on a node."""
    import hashlib

    from fsspec.core import url_to_fs

    system, file = url_to_fs(place)
    with system.open(file, "rb") as handle:
        return hashlib.sha256(handle.read()).hexdigest()


def _with_patience(work: Callable[[], T]) -> T:
    """``work()``, or TimeoutError: storage that never answers must not hold up the other checks."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {PATIENCE_S:g} s")
    return results[0]
