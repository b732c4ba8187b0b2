"""The manifest of a shard set: what is in it, under which settings it was made, and the hash of every file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ecgray.errors import EcgrayError
from ecgray.processor import cores
from ecgray.shards.cache import RemoteFile
from ecgray.shards.partial import on_its_way
from ecgray.shards.storage import is_remote, join, list_files, read_bytes, resolve

SCHEMA = 1
"""Version of the format on disk. A reader takes its own version only."""

SOFTWARE = version("ecgray")

NAME = "manifest.json"
WORK = ".ingest"
"""Folder inside an unfinished shard set: lock, plan, and what is known of the finished shards."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a shard set but its records; written last, so its presence means the set is complete.

    leads: names of the first to last lead; samples: per lead; mean_mv, sd_mv: over all samples of all leads (population
    standard deviation); beats, rhythm_seconds, labels: totals per class; symbols: the source's own annotation symbols
    before mapping; requantised: records whose source did not fit int16, with the worst error in microvolt; ingest:
    settings; shards: name, records, samples; files: bytes and SHA-256 of every other file of the set.
    """

    schema: int = SCHEMA
    ecgray: str
    database: str
    licence: str
    fs: float
    leads: tuple[str, ...]
    records: int
    patients: int
    samples: int
    hours: float
    mean_mv: float
    sd_mv: float
    annotated: int
    beats: dict[str, int]
    rhythm_seconds: dict[str, float]
    labels: dict[str, int]
    symbols: dict[str, int]
    refused: int
    requantised: int
    requantisation_uv: float
    ingest: dict[str, Any]
    shards: tuple[dict[str, Any], ...]
    files: dict[str, dict[str, Any]]

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of manifest.json; it covers every file through ``files``."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"


def read_manifest(path: Path | str) -> Manifest:
    """The manifest of the shard set ``path``, a folder or a URL.

    Raises EcgrayError when the folder is missing, holds no finished shard set, or one of another schema version.
    """
    path = resolve(path) if is_remote(path) else str(path)
    file = join(path, NAME)
    content = _content(path)
    try:
        values = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise EcgrayError(f"'{file}' must be readable JSON, got {type(error).__name__}; ingest again.") from error
    got = values.get("schema") if isinstance(values, dict) else None
    if got != SCHEMA:
        raise EcgrayError(f"'{path}' must be of shard schema {SCHEMA}, got {got!r:.9}; ingest again with this ecgray.")
    names = {field.name for field in dataclasses.fields(Manifest)}
    if set(values) != names:
        odd = ", ".join(sorted(set(values) ^ names))
        raise EcgrayError(f"'{file}' must have the fields of schema {SCHEMA}, but differs in {odd}; ingest again.")
    wrong = next((name for name, holds in _rules(values) if not holds), None)
    if wrong is not None:
        raise EcgrayError(f"'{file}' must say {wrong} as this ecgray writes it, got another form; ingest again.")
    values["leads"] = tuple(values["leads"])
    values["shards"] = tuple(values["shards"])
    return Manifest(**values)


_verified: set[tuple[str, str, int, int, int]] = set()
"""Files whose bytes this process has hashed and found right: a sweep opens its sets for every trial."""

_SHARD = re.compile(r"shard-\d{5,9}")
_FILE = re.compile(r"(shard-\d{5,9}/)?[a-z_]+\.(npy|parquet|csv)")
"""Names that files of a set can have: none of them leads out of its folder."""
_MOST = 2**53
"""Above every count that there can be, and exact in any number format."""


def _rules(values: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """(field, whether its value is one that an ingest could have written)."""

    def count(value: Any, least: int = 0) -> bool:
        return type(value) is int and least <= value <= _MOST

    def number(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) <= _MOST  # NaN is not

    def named(value: Any, right: Callable[[Any], bool]) -> bool:
        return isinstance(value, dict) and all(right(item) for item in value.values())

    for name in ("records", "patients", "samples"):
        yield name, count(values[name], 1)
    for name in ("annotated", "refused", "requantised"):
        yield name, count(values[name])
    for name in ("ecgray", "database", "licence"):
        yield name, isinstance(values[name], str)
    for name in ("fs", "hours", "mean_mv", "sd_mv", "requantisation_uv"):
        yield name, number(values[name])
    yield "fs", values["fs"] > 0
    yield "sd_mv", values["sd_mv"] >= 0
    leads, shards, files = values["leads"], values["shards"], values["files"]
    yield "leads", isinstance(leads, list) and bool(leads) and all(isinstance(lead, str) for lead in leads)
    for name in ("beats", "labels", "symbols"):
        yield name, named(values[name], count)
    yield "rhythm_seconds", named(values["rhythm_seconds"], number)
    yield "ingest", isinstance(values["ingest"], dict)
    yield (
        "files",
        named(files, lambda entry: isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"})
        and all(_FILE.fullmatch(name) for name in files)
        and all(count(entry["bytes"]) and isinstance(entry["sha256"], str) for entry in files.values()),
    )
    yield (
        "shards",
        isinstance(shards, list)
        and all(isinstance(shard, dict) and shard.keys() == {"name", "records", "samples"} for shard in shards)
        and all(isinstance(shard["name"], str) and _SHARD.fullmatch(shard["name"]) for shard in shards)
        and all(count(shard[name], 1) for shard in shards for name in ("records", "samples")),
    )
    yield "shards", len({shard["name"] for shard in shards}) == len(shards)
    for name in ("records", "samples"):
        yield name, sum(shard[name] for shard in shards) == values[name]
    arrays = ("signal", "beats", "beat_class", "rhythms")
    listed = {f"{shard['name']}/{array}.npy" for shard in shards for array in arrays}
    yield "files", files.keys() == listed | {"records.parquet", "refused.csv"}


def _content(path: str) -> bytes:
    """The bytes of a set's manifest.json."""
    make = "make one with 'ecgray ingest DATABASE DIR --out NEWFOLDER'"
    stopped = f"'{path}' must be a finished shard set, got a stopped ingest; run the same ingest again."
    if is_remote(path):
        try:
            return read_bytes(join(path, NAME))
        except FileNotFoundError:
            below = list_files(path)
            if any(name.startswith(f"{WORK}/") for name in below):
                raise EcgrayError(stopped) from None
            got = f"no {NAME} among {len(below)} files" if below else "nothing under that name"
            raise EcgrayError(f"'{path}' must hold a shard set, got {got}; {make}.") from None
    folder = Path(path)
    if not folder.is_dir():
        raise EcgrayError(f"A shard set must be a folder, got '{path}'; {make}.")
    if not (folder / NAME).is_file():
        if (folder / WORK).is_dir():
            raise EcgrayError(stopped)
        raise EcgrayError(f"'{path}' must hold a shard set, got no {NAME}; {make}.")
    try:
        return (folder / NAME).read_bytes()
    except OSError as error:
        raise EcgrayError(
            f"'{folder / NAME}' must be readable JSON, got {type(error).__name__}; ingest again."
        ) from error


def file_of(path: str, manifest: Manifest, name: str) -> Path | RemoteFile:
    """Where a file of the shard set ``path`` is read: in its folder, or from the node's cache."""
    if not is_remote(path):
        return Path(path) / name
    entry = manifest.files[name]
    return RemoteFile(join(path, name), entry["bytes"], entry["sha256"])


def verify_files(place: Path | str, manifest: Manifest, how: Literal["sizes", "hashes"]) -> None:
    """Raise EcgrayError for the first file that is missing, of another size, or (``hashes``) of another content.

    On object storage one listing tells the sizes; the hash of a file is compared when it comes into the node's cache,
    before anything reads it.
    """
    if is_remote(place):
        url = resolve(place)
        below = list_files(url)
        for name, expected in sorted(manifest.files.items()):
            got = below.get(name)
            if got != expected["bytes"]:
                must = "exist, got nothing" if got is None else f"be of {expected['bytes']} bytes, got {got}"
                raise EcgrayError(f"'{join(url, name)}' must {must}; copy the shard set there again or ingest again.")
        return
    path = Path(place)

    def check(item: tuple[str, dict[str, Any]]) -> str | None:
        name, expected = item
        try:
            found = os.stat(path / name)
        except OSError:
            return f"'{path / name}' must exist, got nothing"
        if found.st_size != expected["bytes"]:
            return f"'{path / name}' must be of {expected['bytes']} bytes, got {found.st_size}"
        known = (str(path / name), expected["sha256"], found.st_size, found.st_mtime_ns, found.st_ino)
        if how == "hashes" and known not in _verified:
            if file_sha256(path / name) != expected["sha256"]:
                return f"'{path / name}' must have the SHA-256 of the manifest, got changed bytes"
            _verified.add(known)
        return None

    with ThreadPoolExecutor(max_workers=min(8, cores())) as threads:
        for problem in threads.map(check, sorted(manifest.files.items())):
            if problem:
                raise EcgrayError(f"{problem}; copy the shard set again or ingest again.")


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(file: Path, content: bytes) -> dict[str, Any]:
    """Write, fsync and rename, so that ``file`` is whole or absent; returns its entry for ``Manifest.files``."""
    with replaced(file) as stream:
        stream.write(content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@contextlib.contextmanager
def replaced(file: Path) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of ``file`` at the end, on the disk; until then ``file`` is as it was."""
    with on_its_way(file) as (partial, stream):
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        os.replace(partial, file)
    fsync_folder(file.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
