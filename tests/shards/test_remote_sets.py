"""Shard sets at URLs of a real S3 server: the same frames as from the folder, through a node cache."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgray.databases.synthesise import write_labelled
from ecgray.databases.synthetic import Synthetic
from ecgray.errors import EcgrayError
from ecgray.shards import maps
from ecgray.shards.archive import open_archive
from ecgray.shards.cache import cache_folder
from ecgray.shards.ingest import ingest
from ecgray.shards.inspect import summary
from ecgray.shards.manifest import read_manifest
from ecgray.shards.storage import join, list_files, read_bytes, remove, upload, write_bytes


@pytest.fixture
def remote(small_archive: Path, bucket: str) -> str:
    """The small set, copied by other means."""
    url = join(bucket, "shards", "small")
    for file in small_archive.rglob("*.*"):
        upload(file, join(url, str(file.relative_to(small_archive))))
    return url


def test_the_same_archive(remote: str, small_archive: Path, tmp_path: Path) -> None:
    here, there = open_archive([small_archive], verify="hashes"), open_archive([remote], verify="hashes")
    assert there.paths == (remote,) and there.manifests == here.manifests
    rng = np.random.default_rng(0)
    record = rng.integers(0, len(here), 500)
    start = rng.integers(0, here.samples[record] - 256)
    for archive in (there, pickle.loads(pickle.dumps(there))):
        assert np.array_equal(archive.cut(record, start, 256), here.cut(record, start, 256))
        assert np.array_equal(
            archive.beat_counts(record, start, start + 256), here.beat_counts(record, start, start + 256)
        )
    assert list(there.record_id) == list(here.record_id) and there.labels == here.labels
    assert summary([remote]) == summary([small_archive])


def test_few_descriptors(remote: str, small_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each map of a file in the cache has one: those that are not asked for give theirs back."""
    monkeypatch.setattr(maps, "_files_for_readers", lambda: 2)
    here, there = open_archive([small_archive]), open_archive([remote])
    every, start = np.arange(len(here)), np.zeros(len(here))
    for _ in range(2):
        assert np.array_equal(there.beat_counts(every, start, here.samples), here.beat_totals)
        assert np.array_equal(there.rhythm_durations(every, start, here.samples), here.rhythm_samples)
        assert np.array_equal(there.cut(every, start, 100), here.cut(every, start, 100))
    held = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            held += str(cache_folder() / "files") in os.readlink(f"/proc/self/fd/{number}")
    assert 0 < held <= 4 * 2


def test_a_cache_smaller_than_the_set(remote: str, small_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards come and go, and every frame is right; what a single call reads must fit."""
    here, there = open_archive([small_archive]), open_archive([remote])
    signals = [entry["bytes"] for name, entry in here.manifests[0].files.items() if name.endswith("signal.npy")]
    assert len(signals) > 3
    assert here.remote_bytes == 0
    assert there.remote_bytes == sum(entry["bytes"] for entry in here.manifests[0].files.values())
    bound = 2.5 * max(signals)
    monkeypatch.setenv("ECGRAY_CACHE_GB", str(bound / 1e9))
    for record in [*range(len(here)), *range(len(here))]:
        frame = [np.array([record] * 3), np.array([0, 10, 20]), 256]
        assert np.array_equal(there.cut(*frame), here.cut(*frame))
        window = [record], [0], [here.samples[record]]
        assert np.array_equal(there.beat_counts(*window), here.beat_counts(*window))
    monkeypatch.setattr("ecgray.shards.cache._WAIT_S", 0.2)
    every = np.arange(len(here))
    with pytest.raises(EcgrayError, match=r"got no room for .*raise ECGRAY_CACHE_GB"):
        there.cut(every, np.zeros_like(every), 256)
    monkeypatch.setenv("ECGRAY_CACHE_GB", "1")
    assert np.array_equal(there.cut(every, np.zeros_like(every), 256), here.cut(every, np.zeros_like(every), 256))


def test_refusals(remote: str, bucket: str) -> None:
    with pytest.raises(EcgrayError, match=f"'{bucket}/nowhere' must hold a shard set, got nothing under that name"):
        open_archive([f"{bucket}/nowhere"])
    with pytest.raises(EcgrayError, match=f"'{bucket}/shards' must hold a shard set, got no manifest.json among"):
        open_archive([f"{bucket}/shards"])
    with pytest.raises(EcgrayError, match="Each shard set must be named once"):
        open_archive([remote, remote + "/"])
    beats = join(remote, "shard-00000", "beats.npy")
    content = read_bytes(beats)
    write_bytes(beats, content[:-1] + b"?")
    archive = open_archive([remote])
    with pytest.raises(EcgrayError, match=re.escape(f"'{beats}' must have the SHA-256 of the manifest")):
        archive.beats(0)
    write_bytes(beats, content[:-1])
    with pytest.raises(
        EcgrayError, match=re.escape(f"'{beats}' must be of {len(content)} bytes, got {len(content) - 1}")
    ):
        open_archive([remote])
    remove(beats)
    with pytest.raises(EcgrayError, match=re.escape(f"'{beats}' must exist, got nothing")):
        open_archive([remote])


@pytest.fixture(scope="module")
def labelled_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    write_labelled(root, records=24, seed=3)
    return root


def test_ingest_to_a_url(labelled_files: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after some shards and finished from another machine: the bytes of an ingest into a folder."""
    how: dict[str, Any] = {"workers": 0, "shard_mb": 0.03, "progress": False}
    monkeypatch.setattr("ecgray.shards.layout._SMALLEST_MB", 0.03)
    ingest(Synthetic(), labelled_files, tmp_path / "local", **how)
    url = f"{bucket}/shards/labelled"
    read, seen = Synthetic.read, []

    def stop_in_the_middle(self: Synthetic, reference: Any) -> Any:
        seen.append(reference.record)
        if len(seen) == 20:
            raise KeyboardInterrupt
        return read(self, reference)

    monkeypatch.setattr(Synthetic, "read", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        ingest(Synthetic(), labelled_files, url, **how)
    with pytest.raises(EcgrayError, match="must be a finished shard set, got a stopped ingest"):
        open_archive([url])
    with pytest.raises(EcgrayError, match=f"'{url}' must be finished as it was begun, got fs 100"):
        ingest(Synthetic(), labelled_files, url, fs=100, **how)
    done = sum(name.endswith("signal.npy") for name in list_files(url))
    assert done >= 1
    monkeypatch.setenv("ECGRAY_CACHE", str(tmp_path / "another-machine"))
    begun = len(seen)
    manifest = ingest(Synthetic(), labelled_files, url, **how)
    assert len(seen) - begun < 24  # neither the probes for rate and leads were needed, nor the finished shards
    assert manifest == read_manifest(url) == read_manifest(tmp_path / "local")
    files = {str(f.relative_to(tmp_path / "local")): f for f in (tmp_path / "local").rglob("*") if f.is_file()}
    assert list_files(url).keys() == files.keys()
    assert all(read_bytes(join(url, name)) == file.read_bytes() for name, file in files.items())
    assert not list((tmp_path / "another-machine" / "work").iterdir())
    with pytest.raises(EcgrayError, match=f"'{url}' must not hold a shard set yet, got a finished one"):
        ingest(Synthetic(), labelled_files, url, **how)
    with pytest.raises(EcgrayError, match="must be a new or empty folder, got other files in it"):
        ingest(Synthetic(), labelled_files, f"{bucket}/shards", **how)
