"""Files at URLs, ``s3://`` and ``gs://`` through fsspec, and at local paths, with patience for a storage that fails.

A URL is a string without a slash at its end; an object is whole or absent. Credentials and endpoint come from where the
provider's own tools take them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, the
role of the machine, ...), never from a config. What fails is tried again, ever more rarely, for
``ECGRAY_STORAGE_PATIENCE_S`` seconds (300); then ``StorageLost`` is raised.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from ecgray.errors import EcgrayError

PATIENCE = "ECGRAY_STORAGE_PATIENCE_S"
_PATIENCE_S = 300.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 15.0

_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 2}}},
    "gs": {"timeout": 60},
}
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_REMOTE = re.compile(r"([a-z][a-z0-9]+):/+(.*)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")
_DAMAGED_ON_THE_WAY = ("BadDigest", "IncompleteBody", "Content-MD5", "did not match", "fully consumed")

log = logging.getLogger(__name__)
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints tracebacks of what is tried again here
T = TypeVar("T")


class StorageLost(EcgrayError):
    """A storage that did not answer for as long as ECGRAY_STORAGE_PATIENCE_S says."""


def is_remote(path: str | Path) -> bool:
    """Whether ``path`` names object storage; raises EcgrayError for a scheme that is not known."""
    match = _REMOTE.match(str(path))
    if match and match[1] not in _OPTIONS:
        raise EcgrayError(f"A URL must begin with s3:// or gs://, got '{path}'; give one of them, or a local path.")
    return match is not None


def resolve(path: str | Path) -> str:
    """``path`` as it is known everywhere: an absolute local path, or a URL without a slash at its end.

    A URL that has been a ``Path``, and so has lost a slash, is mended.
    """
    if not is_remote(path):
        return str(Path(path).expanduser().resolve())
    scheme, rest = _REMOTE.match(str(path)).groups()  # type: ignore[union-attr]
    if not rest.strip("/"):
        raise EcgrayError(f"A URL must name a bucket and a folder in it, got '{path}'; give {scheme}://BUCKET/FOLDER.")
    return f"{scheme}://{rest.rstrip('/')}"


def require_local(place: str | Path, what: str) -> Path:
    """``place`` as a path. Raises EcgrayError for a URL, also one that has been a ``Path``: ``what`` is read here."""
    if match := _REMOTE.match(str(place)):
        raise EcgrayError(
            f"{what} must lie in a folder that this machine sees, got the URL {match[1]}://{match[2]}; copy them here, "
            "or mount the bucket, and give that folder."
        )
    return Path(place)


def join(folder: str, *names: str) -> str:
    """The URL (or path) of a file in a folder."""
    return "/".join((folder.rstrip("/"), *names))


def read_bytes(url: str) -> bytes:
    """The whole content; raises FileNotFoundError when there is nothing."""
    content: bytes = _ask(url, "read", lambda fs, path: fs.cat_file(path))
    return content


def write_bytes(url: str, content: bytes) -> None:
    """Put ``content`` there, in place of what may be there."""
    _ask(url, "write", lambda fs, path: fs.pipe_file(path, content))


def create_bytes(url: str, content: bytes) -> bool:
    """Put ``content`` there unless something is there; whether this call did it. Of several at once, one does.

    ``content`` must be the caller's alone: by it, a call whose answer was lost knows its own work.
    """

    def create(fs: Any, path: str) -> bool:
        try:
            fs.pipe_file(path, content, mode="create")
        except Exception as error:
            # s3fs says it in words ("... did not hold"), gcsfs in a code.
            failed = "recondition" in str(error) or getattr(error, "code", None) in (412, "412")
            if isinstance(error, FileExistsError) or failed:
                return False
            raise
        return True

    if _ask(url, "write", create):
        return True
    with suppress(FileNotFoundError):
        return read_bytes(url) == content
    return False


def list_files(url: str) -> dict[str, int]:
    """Bytes of every file below the folder ``url``, by its name from there on; empty where there is none."""

    return {name: entry["size"] for name, entry in _entries(url).items()}


def list_versions(url: str) -> dict[str, str]:
    """Like ``list_files``, but with a word for each file that changes with its content."""

    def version(entry: dict[str, Any]) -> str:
        tag = next((str(entry[key]) for key in ("ETag", "etag", "generation", "mtime") if entry.get(key)), "")
        return f"{entry['size']} {tag}"

    return {name: version(entry) for name, entry in _entries(url).items()}


def _entries(url: str) -> dict[str, dict[str, Any]]:
    """What the storage says of each file below ``url``. Raises EcgrayError for a name that would leave the folder."""

    def find(fs: Any, path: str) -> dict[str, dict[str, Any]]:
        found = fs.find(path, detail=True)
        start = len(fs._strip_protocol(path).rstrip("/")) + 1
        return {name[start:]: entry for name, entry in found.items() if len(name) > start}

    try:
        entries: dict[str, dict[str, Any]] = _ask(url, "list", find)
    except FileNotFoundError:
        return {}
    for name in entries:
        if {"", ".", ".."} & set(name.split("/")):
            raise EcgrayError(f"'{url}' must hold names that lie below it, got '{name[:100]}'; remove that object.")
    return entries


def size_of(url: str) -> int | None:
    """Bytes of a file, None where there is none."""
    try:
        size: int = _ask(url, "look at", lambda fs, path: fs.info(path)["size"])
    except FileNotFoundError:
        return None
    return size


def remove(url: str) -> None:
    """Remove a file, or a folder with all that is below it; nothing happens where there is none."""
    with suppress(FileNotFoundError):
        _ask(url, "remove", lambda fs, path: fs.rm(path, recursive=True))


def upload(file: Path, url: str) -> None:
    """Copy a local file to ``url``."""
    _ask(url, "write", lambda fs, path: fs.put_file(str(file), path))


def download(url: str, file: Path) -> None:
    """Copy what is at ``url`` over the local file ``file``, which is not whole until this returns.

    Raises FileNotFoundError when there is nothing, and OSError when the local disk refuses.
    """
    _ask(url, "read", lambda fs, path: fs.get_file(path, str(file)))


def filesystem_of(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, without this module's patience, and the path in it: for other libraries."""
    fs = _filesystem(url)
    return fs, str(fs._strip_protocol(url))


def _ask(url: str, what: str, call: Callable[[Any, str], T]) -> T:
    """``call(filesystem, path)``, tried again while the storage fails.

    Raises FileNotFoundError as it comes; EcgrayError for what another try does not mend; StorageLost.
    """
    fs = _filesystem(url)
    patience = _patience()
    began, pause = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            return call(fs, url)
        except Exception as error:
            if _is_local(error, url):
                raise
            _raise_refusal(error, url, what)
            left = patience - (time.monotonic() - began)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            if left <= 0:
                raise StorageLost(
                    f"'{url}' must be reachable, but it could not be {_DONE[what]} for {patience:g} s ({reason}); "
                    f"mend the storage or the way to it ({PATIENCE} is how long is waited), then go on."
                ) from error
            if pause == _FIRST_PAUSE_S:
                log.warning("Storage fails (%s %s: %s); trying again for %g s.", what, url, reason, patience)
            time.sleep(min(pause * random.uniform(0.7, 1.0), left))
            pause = min(2 * pause, _LONGEST_PAUSE_S)


_DONE = {"read": "read", "write": "written", "list": "listed", "look at": "looked at", "remove": "removed"}


def _patience() -> float:
    text = os.environ.get(PATIENCE, "")
    try:
        return max(0.0, float(text)) if text else _PATIENCE_S
    except ValueError:
        raise EcgrayError(f"{PATIENCE} must be a number of seconds, got '{text}'; 300 is a good one.") from None


def _filesystem(url: str) -> Any:
    if not is_remote(url):
        return fsspec.filesystem("file", auto_mkdir=True)
    scheme = url.partition(":")[0]
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, **_OPTIONS[scheme])
    except ImportError as error:
        raise EcgrayError(
            f"{scheme}:// must be read with the package {_PACKAGES[scheme]}, got none (for '{url}'); "
            f"install it with: pip install 'ecgray[{scheme}]'"
        ) from error
    except Exception as error:
        if type(error).__name__ in _NO_CREDENTIALS:
            _raise_refusal(error, url, "read")
        raise


def _is_local(error: Exception, url: str) -> bool:
    """Whether this machine's disk is at fault, or what was asked for does not exist."""
    if not isinstance(error, OSError):
        return not is_remote(url)
    if isinstance(error, FileNotFoundError) and "bucket" not in str(error).lower():
        return True
    return error.errno in _FULL or error.filename is not None or not is_remote(url)


def _raise_refusal(error: Exception, url: str, what: str) -> None:
    """Raise EcgrayError for an answer that will be the same however often one asks."""
    scheme, bucket = url.partition(":")[0], url.split("/")[2]
    said, name = " ".join(str(error).split())[:200], type(error).__name__
    if isinstance(error, FileNotFoundError):
        raise EcgrayError(
            f"The bucket '{bucket}' must exist, got none of that name at {_place(scheme)} (for '{url}'); make it with "
            "your provider's own tools, or correct the URL."
        ) from error
    if name in _NO_CREDENTIALS or "Anonymous caller" in said:
        how = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role"
            if scheme == "s3"
            else "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account"
        )
        raise EcgrayError(f"'{url}' must be opened with credentials, got none ({name}: {said}); {how}.") from error
    if isinstance(error, PermissionError):
        raise EcgrayError(
            f"The credentials must be allowed to {what} '{url}', got a refusal ({said}); "
            "give other credentials, or these more rights."
        ) from error
    wrong = isinstance(error, OSError) and error.errno == errno.EINVAL
    if (wrong and not any(text in said for text in _DAMAGED_ON_THE_WAY)) or name == "ParamValidationError":
        raise EcgrayError(f"'{url}' must be a URL that the storage takes, got: {said}; correct it.") from error
    if isinstance(error, (TypeError, AttributeError, KeyError, AssertionError)):
        raise error  # a slip of a program is not a storage that fails


def _place(scheme: str) -> str:
    variable = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[scheme]
    return os.environ.get(variable, "the provider's own address")
