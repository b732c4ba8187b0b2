"""Shard sets whose files are not what an ingest wrote, though manifest and sizes agree: one EcgrayError for each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgray.databases import CinC2017
from ecgray.errors import EcgrayError
from ecgray.shards import manifest, maps
from ecgray.shards.archive import open_archive
from ecgray.shards.ingest import ingest
from ecgray.shards.inspect import read_refused


@pytest.fixture
def shards(small_archive: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_archive, tmp_path / "set")


def vouch(shards: Path) -> None:
    """The manifest says of each file what it is, as in a set that somebody else has made."""
    manifest = json.loads((shards / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        content = (shards / name).read_bytes()
        entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (shards / "manifest.json").write_text(json.dumps(manifest))


def use_all(shards: Path) -> None:
    archive = open_archive([shards], verify="hashes")
    for record in range(len(archive)):
        archive.cut([record], [archive.samples[record] - 100], 100)
        archive.beats(record)
        archive.rhythms(record)
        assert isinstance(archive.attributes[record], dict)
        assert isinstance(archive.record_id[record], str)


def header(descr: str, shape: str) -> bytes:
    line = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    line += b" " * (117 - len(line)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line


def zip_archive(file: Path) -> None:
    with file.open("wb") as stream:
        np.savez_compressed(stream, np.zeros(1000))


def of_objects(file: Path) -> None:
    np.save(file, np.array([{}], object), allow_pickle=True)


def beyond_memory(file: Path) -> None:
    file.write_bytes(header(np.load(file).dtype.str, "(99999999999999,)"))


def not_numbers(file: Path) -> None:
    file.write_bytes(header("<i8", "(__import__('os').system('true'),)"))


def shorter(file: Path) -> None:
    np.save(file, np.load(file)[..., :3] if file.stem == "signal" else np.load(file)[:3])


def out_of_range(file: Path) -> None:
    array = np.load(file)
    array.reshape(-1)[1] = np.iinfo(array.dtype).max
    np.save(file, array)


ARRAYS: list[Callable[[Path], None]] = [zip_archive, of_objects, beyond_memory, not_numbers, shorter, out_of_range]


@pytest.mark.parametrize("name", ["signal", "beats", "beat_class", "rhythms"])
@pytest.mark.parametrize("harm", ARRAYS, ids=lambda harm: harm.__name__)
def test_arrays(shards: Path, harm: Callable[[Path], None], name: str) -> None:
    harm(shards / "shard-00000" / f"{name}.npy")
    vouch(shards)
    if (harm, name) == (out_of_range, "signal"):  # every int16 is a signal
        return use_all(shards)
    with pytest.raises(EcgrayError, match=f"{name}|records.parquet") as error:
        use_all(shards)
    assert "\n" not in str(error.value)


def set_value(column: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        place = table.column_names.index(column)
        values = [value, *table[column].to_pylist()[1:]]
        return table.set_column(place, column, pa.array(values, table.schema.field(column).type))

    return change


TABLES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "offset outside": set_value("offset", 10**12),
    "offset below": set_value("offset", -1),
    "samples outside": set_value("samples", 2**62),
    "shard unknown": set_value("shard", 99),
    "shard below": set_value("shard", -(2**31)),
    "beats outside": set_value("beat_end", 10**9),
    "beats backwards": set_value("beat_start", 10**9),
    "gain of none": set_value("gain", [0.0]),
    "a null": set_value("samples", None),
    "a null in a list": set_value("gain", [None]),
    "attributes are no JSON": set_value("attributes", "["),
    "attributes are deep": set_value("attributes", "[" * 100_000),
    "attributes are a list": set_value("attributes", "[]"),
    "a row too few": lambda table: table.slice(1),
    "a column less": lambda table: table.drop_columns(["gain"]),
    "a column twice": lambda table: table.append_column("gain", table["gain"]),
    "another type": lambda table: table.set_column(3, "offset", table["offset"].cast(pa.float64())),
}


@pytest.mark.parametrize("harm", TABLES)
def test_records(shards: Path, harm: str) -> None:
    file = shards / "records.parquet"
    pq.write_table(TABLES[harm](pq.read_table(file)), file)
    vouch(shards)
    with pytest.raises(EcgrayError) as error:
        use_all(shards)
    assert "\n" not in str(error.value)


MANIFESTS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("files", lambda m: m["files"].update({"../outside.npy": {"bytes": 1, "sha256": ""}})),
    ("files", lambda m: m["files"].update({"/etc/passwd": {"bytes": 1, "sha256": ""}})),
    ("files", lambda m: m["files"].pop("shard-00000/signal.npy")),
    ("files", lambda m: m["files"]["records.parquet"].pop("bytes")),
    ("files", lambda m: m.update(files=[])),
    ("shards", lambda m: m["shards"][0].update(name="shard-99999999999999")),
    ("shards", lambda m: m["shards"][0].update(name="../../etc")),
    ("shards", lambda m: m.update(shards=7)),
    ("samples", lambda m: m["shards"][0].update(samples=1)),
    ("leads", lambda m: m.update(leads="I")),
    ("fs", lambda m: m.update(fs=float("nan"))),
    ("fs", lambda m: m.update(fs="250")),
    ("sd_mv", lambda m: m.update(sd_mv=float("inf"))),
    ("beats", lambda m: m.update(beats={"normal": "many"})),
]


@pytest.mark.parametrize(("field", "harm"), MANIFESTS)
def test_manifests(shards: Path, field: str, harm: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    harm(manifest)
    (shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EcgrayError, match=f"must say {field}"):
        open_archive([shards])


def test_a_manifest_too_deep(shards: Path) -> None:
    (shards / "manifest.json").write_bytes(b"[" * 100_000)
    with pytest.raises(EcgrayError, match="readable JSON"):
        open_archive([shards])


def test_refusals_of_another_encoding(shards: Path) -> None:
    (shards / "refused.csv").write_bytes(b"record,reason\n\xff,x\n")
    with pytest.raises(EcgrayError, match="must be a table"):
        read_refused(shards / "refused.csv")


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ingest that ended before its manifest."""

    def no_more(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ecgray.shards.ingest.finish", no_more)
        with pytest.raises(KeyboardInterrupt):
            go_on(tmp_path / "out")
    return tmp_path / "out"


def go_on(out: Path) -> None:
    ingest(CinC2017(), Path(__file__).parents[1] / "data" / "cinc2017", out, workers=0, progress=False, shard_mb=0.05)


@pytest.mark.parametrize("place", [0, 40, 2000, -1])
def test_a_ledger_with_another_byte_is_written_again(stopped: Path, tmp_path: Path, place: int) -> None:
    file = stopped / ".ingest" / "shard-00001.ledger"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))
    go_on(stopped)
    go_on(tmp_path / "other")
    for name in ("manifest.json", "records.parquet"):
        assert (stopped / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("place", [0, 70, -1])
def test_a_plan_with_another_byte_is_refused(stopped: Path, place: int) -> None:
    file = stopped / ".ingest" / "plan.json"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(EcgrayError, match="got other bytes"):
        go_on(stopped)


def test_a_signal_that_shrinks_while_it_is_read(shards: Path) -> None:
    """Reading on would end the process by a signal (SIGBUS); a file that is removed can be read on."""
    archive = open_archive([shards])
    file = shards / "shard-00000" / "signal.npy"
    before = archive.cut([0], [0], 100)
    size = file.stat().st_size
    os.truncate(file, 4096)
    with pytest.raises(EcgrayError, match=f"4096 of its {size} bytes left"):
        archive.cut([0], [0], 100)
    other = open_archive_again(shards, file, size)
    kept = other.cut([0], [0], 100)
    file.unlink()
    np.testing.assert_array_equal(other.cut([0], [0], 100), kept)
    assert before.shape == kept.shape
    with pytest.raises(EcgrayError, match="must exist"):
        open_archive([shards])


def open_archive_again(shards: Path, file: Path, size: int) -> Any:
    os.truncate(file, size)
    return open_archive([shards])


def test_a_process_hashes_a_file_once_unless_it_was_written_anew(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    plain = manifest.file_sha256
    monkeypatch.setattr(manifest, "file_sha256", lambda file: hashed.append(file) or plain(file))
    for _ in range(3):
        open_archive([shards], verify="hashes")
    assert len(hashed) == len(set(hashed)) == len(open_archive([shards]).manifests[0].files)
    signal = shards / "shard-00000" / "signal.npy"
    signal.write_bytes(signal.read_bytes()[:-1] + b"?")
    with pytest.raises(EcgrayError, match=r"signal\.npy' must have the SHA-256 of the manifest"):
        open_archive([shards], verify="hashes")
    assert len(hashed) == len(set(hashed)) + 1


def test_annotations_that_change_between_two_uses(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was learned of a file leads astray in another one: beyond its end, where other memory lies."""
    monkeypatch.setattr(maps, "_HELD", 1)
    archive = open_archive([shards])
    window = np.arange(len(archive)), np.zeros(len(archive)), archive.samples
    counts = archive.beat_counts(*window)
    file = shards / "shard-00000" / "beats.npy"
    np.save(shards / "other.npy", np.load(file)[:5])
    (shards / "other.npy").rename(file)
    archive.beats(len(archive) - 1)  # of another shard: the first one's map is let go of
    assert counts.sum()
    with pytest.raises(EcgrayError, match=r"beats\.npy' must stay as it is while the set is used, got another file"):
        archive.beat_counts(*window)


def test_an_empty_array_behind_a_long_header(shards: Path) -> None:
    """Its first element would lie behind the file's only page."""
    file = shards / "shard-00000" / "beats.npy"
    line = b"{'descr': '<i8', 'fortran_order': False, 'shape': (0,), }".ljust(4085) + b"\n"
    file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line)
    assert file.stat().st_size == 4096
    vouch(shards)
    with pytest.raises(EcgrayError, match=r"must be a whole \.npy file of numbers"):
        open_archive([shards]).beats(0)


def test_a_schema_that_is_no_number_is_not_shown_whole(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps(manifest | {"schema": manifest["files"]}))
    with pytest.raises(EcgrayError, match="must be of shard schema 1") as error:
        open_archive([shards])
    assert len(str(error.value)) < 300
    (shards / "manifest.json").write_text(json.dumps(manifest | {"schema": "a\nb"}))
    with pytest.raises(EcgrayError, match="must be of shard schema 1") as error:
        open_archive([shards])
    assert "\n" not in str(error.value)


def test_names_of_columns_that_are_no_text(shards: Path) -> None:
    file = shards / "records.parquet"
    content = file.read_bytes()
    assert content.count(b"signal_hash") > 0
    file.write_bytes(content.replace(b"signal_hash", b"signal\xdfhash"))
    vouch(shards)
    with pytest.raises(EcgrayError, match=r"records\.parquet"):
        use_all(shards)
