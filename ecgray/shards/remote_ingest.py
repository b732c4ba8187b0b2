"""What an ingest into a URL does with the storage: plan and ledgers under ``.ingest/``, shards, the manifest last."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ecgray.errors import EcgrayError
from ecgray.shards.ledger import Ledger
from ecgray.shards.manifest import NAME, WORK, Manifest
from ecgray.shards.remote_lock import remotely_locked
from ecgray.shards.storage import StorageLost, download, join, list_files, remove, size_of
from ecgray.shards.working import push, renew


def refuse_finished(url: str) -> None:
    """Raise EcgrayError when there is a finished shard set at ``url``."""
    if size_of(join(url, NAME)) is not None:
        raise EcgrayError(
            f"'{url}' must not hold a shard set yet, got a finished one; use it, choose another URL, or remove it."
        )


@contextlib.contextmanager
def at_url(url: str, out: Path) -> Iterator[None]:
    """Hold ``url`` for one ingest, with the plan of a stopped one in the working folder ``out``; all that an ingest
    needs for itself is gone once the manifest is there."""
    below = list_files(url)
    if below and not any(name.startswith(f"{WORK}/") for name in below):
        raise EcgrayError(f"'{url}' must be a new or empty folder, got other files in it; choose another.")
    with remotely_locked(join(url, WORK)):
        refuse_finished(url)
        renew(url, out, lambda name: name == f"{WORK}/plan.json")
        yield
    shutil.rmtree(out, ignore_errors=True)
    remove(join(url, WORK))


def published_shard(url: str, file: Path, published: Mapping[str, int]) -> Ledger | None:
    """The ledger of a shard of which every file is at ``url`` with its size; it is put at ``file``."""
    name = f"{WORK}/{file.name}"
    if name not in published:
        return None
    try:
        download(join(url, name), file)
        ledger = Ledger.load(file)
    except StorageLost:
        raise
    except (EcgrayError, FileNotFoundError):
        return None  # the shard is read again
    return ledger if all(published.get(name) == entry["bytes"] for name, entry in ledger.files.items()) else None


def send_shard(out: Path, url: str, ledger: Ledger, file: Path) -> None:
    """Publish a written shard, then its ledger ``file``; neither is needed here any longer."""
    push(out, url, sorted(ledger.files))
    push(out, url, [f"{WORK}/{file.name}"])
    shutil.rmtree(out / ledger.name, ignore_errors=True)
    file.unlink()


def publish_set(out: Path, url: str, manifest: Manifest) -> None:
    """Publish what is said of all shards: with the manifest, the set is there."""
    push(out, url, sorted(name for name in manifest.files if "/" not in name))
    push(out, url, [NAME])
