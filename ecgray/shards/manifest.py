"""The manifest of a shard set: what is in it, under which settings it was made, and the hash of every file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ecgray.errors import EcgrayError

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

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of manifest.json; it covers every file through ``files``."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"


def read_manifest(path: Path) -> Manifest:
    """The manifest of the shard set ``path``.

    Raises EcgrayError when the folder is missing, holds no finished shard set, or one of another schema version.
    """
    file = path / NAME
    make = f"make one with 'ecgray ingest DATABASE DIR --out {path}'"
    if not path.is_dir():
        raise EcgrayError(f"A shard set must be a folder, got '{path}'; {make}.")
    if not file.is_file():
        if (path / WORK).is_dir():
            raise EcgrayError(
                f"'{path}' must be a finished shard set, got a stopped ingest; run the same ingest again."
            )
        raise EcgrayError(f"'{path}' must hold a shard set, got no {NAME}; {make}.")
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise EcgrayError(f"'{file}' must be readable JSON, got {type(error).__name__}; ingest again.") from error
    got = values.get("schema") if isinstance(values, dict) else None
    if got != SCHEMA:
        raise EcgrayError(f"'{path}' must be of shard schema {SCHEMA}, got {got}; ingest again with this ecgray.")
    names = {field.name for field in dataclasses.fields(Manifest)}
    if set(values) != names:
        odd = ", ".join(sorted(set(values) ^ names))
        raise EcgrayError(f"'{file}' must have the fields of schema {SCHEMA}, but differs in {odd}; ingest again.")
    values["leads"] = tuple(values["leads"])
    values["shards"] = tuple(values["shards"])
    return Manifest(**values)


def verify_files(path: Path, manifest: Manifest, how: Literal["sizes", "hashes"]) -> None:
    """Raise EcgrayError for the first file that is missing, of another size, or (``hashes``) of another content."""

    def check(item: tuple[str, dict[str, Any]]) -> str | None:
        name, expected = item
        try:
            size = os.stat(path / name).st_size
        except OSError:
            return f"'{path / name}' must exist, got nothing"
        if size != expected["bytes"]:
            return f"'{path / name}' must be of {expected['bytes']} bytes, got {size}"
        if how == "hashes" and file_sha256(path / name) != expected["sha256"]:
            return f"'{path / name}' must have the SHA-256 of the manifest, got changed bytes"
        return None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        for problem in threads.map(check, sorted(manifest.files.items())):
            if problem:
                raise EcgrayError(f"{problem}; copy the shard set again or ingest again.")


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(file: Path, content: bytes) -> dict[str, Any]:
    """Write, fsync and rename, so that ``file`` is whole or absent; returns its entry for ``Manifest.files``."""
    partial = file.with_name(f"{file.name}.partial-{os.getpid()}")
    with partial.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)
    fsync_folder(file.parent)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
