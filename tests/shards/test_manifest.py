"""What is wrong with a shard set is said in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from ecgray.errors import EcgrayError
from ecgray.shards.archive import open_archive
from ecgray.shards.manifest import read_manifest
from ecgray.shards.writer import write_shard_set


@pytest.fixture
def shards(small_archive, tmp_path):
    return shutil.copytree(small_archive, tmp_path / "set")


def one_line(paths, match, **verify):
    with pytest.raises(EcgrayError, match=match) as caught:
        open_archive(paths, **verify)
    assert "\n" not in str(caught.value)


def test_a_whole_set_passes(shards):
    open_archive([shards], verify="hashes")


def test_files_of_the_set_are_exactly_those_of_the_manifest(shards):
    found = {file.relative_to(shards).as_posix() for file in shards.rglob("*") if file.is_file()}
    assert found == {*read_manifest(shards).files, "manifest.json"}


@pytest.mark.parametrize("name", ["signal.npy", "beats.npy", "beat_class.npy", "rhythms.npy"])
def test_a_flipped_byte_is_found_by_hash(shards, name):
    file = shards / "shard-00001" / name
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    open_archive([shards])
    one_line([shards], f"shard-00001/{name}' must have the SHA-256", verify="hashes")


def test_a_truncated_file_is_found_by_size(shards):
    file = shards / "shard-00000" / "signal.npy"
    file.write_bytes(file.read_bytes()[:-2])
    one_line([shards], "must be of .* bytes")


def test_a_missing_file_is_found(shards):
    (shards / "shard-00000" / "beats.npy").unlink()
    one_line([shards], "beats.npy' must exist")


def test_another_schema_is_refused(shards):
    values = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps(values | {"schema": 2}))
    one_line([shards], "schema 1, got 2; ingest again")


def test_other_fields_and_other_content_are_refused(shards):
    values = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps(values | {"extra": 2}))
    one_line([shards], "differs in extra")
    (shards / "manifest.json").write_text("{")
    one_line([shards], "readable JSON")
    (shards / "manifest.json").write_text("[1]")
    one_line([shards], "schema 1, got None")


def test_a_folder_without_a_set_says_how_to_make_one(tmp_path):
    one_line([tmp_path], "no manifest.json; make one with 'ecgray ingest DATABASE DIR --out NEWFOLDER'")
    (tmp_path / "raw.hea").touch()
    one_line([tmp_path / "raw.hea"], "must be a folder, got .*; make one with 'ecgray ingest .* --out NEWFOLDER'")
    one_line([tmp_path / "nowhere"], "must be a folder")
    (tmp_path / ".ingest").mkdir()
    one_line([tmp_path], "stopped ingest; run the same ingest again")


def test_arrays_of_objects_are_never_unpickled(shards):
    """A shard whose sizes fit but which holds a pickle is refused, not run."""
    file = shards / "shard-00000" / "beats.npy"
    evil = np.array([{"a": 1}] * 3, object)
    np.save(file, evil, allow_pickle=True)
    values = json.loads((shards / "manifest.json").read_text())
    values["files"]["shard-00000/beats.npy"]["bytes"] = file.stat().st_size
    (shards / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(EcgrayError, match=r"whole \.npy file"):
        open_archive([shards]).beats(0)


def test_hash_follows_the_content(random_records, tmp_path):
    records = random_records.random_records(4, patients=2)
    first = write_shard_set(records, tmp_path / "a")
    assert first.hash == write_shard_set(records[::-1], tmp_path / "b").hash == read_manifest(tmp_path / "a").hash
    other = random_records.random_records(5, patients=2)
    assert first.hash != write_shard_set(other, tmp_path / "c").hash


def test_a_finished_set_is_not_written_over(small_archive, random_records):
    with pytest.raises(EcgrayError, match="got a finished one"):
        write_shard_set(random_records.random_records(patients=1), small_archive)
