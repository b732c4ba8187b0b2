"""What lies below a folder: records, companions of other systems, files of kinds that are not read, what is unread."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ecgray.databases import CinC2017, Folder, Icentia11k, MitBih
from ecgray.databases.layouts import recognise
from ecgray.databases.record import Found
from ecgray.databases.walk import is_companion, walk
from ecgray.errors import EcgrayError
from ecgray.shards.ingest import ingest

Writer = Callable[..., Path]
Wave = npt.NDArray[np.int64]

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        \0\2" + bytes(100)
EDF = b"0       " + b" " * 160 + b"01.01.0101.01.01512     " + b" " * 100


@pytest.mark.parametrize(
    "name",
    [
        "._rec0.hea",
        "__MACOSX",
        ".DS_Store",
        "Thumbs.db",
        "thumbs.DB",
        "desktop.ini",
        ".ipynb_checkpoints",
        ".git",
        "$RECYCLE.BIN",
        ".Trash-1000",
        ".Trashes",
        ".Spotlight-V100",
        ".fseventsd",
        "lost+found",
        "@eaDir",
        "#recycle",
        ".snapshot",
        ".stversions",
        "__pycache__",
    ],
)
def test_what_other_systems_leave_is_no_record_and_no_folder(
    tmp_path: Path, write_record: Writer, wave: Wave, name: str
) -> None:
    assert is_companion(name)
    folder = tmp_path / "db"
    for patient in ("a", "b"):
        path = write_record(folder / "holter" / patient, wave, marks=[(5, "N", "")])
        if name.startswith("._"):
            path.with_name("._" + path.name + ".hea").write_bytes(APPLE_DOUBLE)
        elif "." in name[1:] and name.lower().endswith(("db", "ini")):
            (folder / name).write_bytes(b"x")
        else:
            (folder / name).mkdir(exist_ok=True)
            for suffix in (".hea", ".dat", ".atr"):
                shutil.copy(path.with_suffix(suffix), folder / name / f"{patient}{suffix}")
    found = Folder().find(folder)
    # One folder of records: each is a patient of its own.
    assert {reference.record: reference.patient for reference in found} == {
        "holter/a": "holter/a",
        "holter/b": "holter/b",
    }
    assert isinstance(found, Found)
    assert any("companion file" in line and "other systems" in line for line in found.remarks)


@pytest.mark.parametrize("name", ["rec.hea", "_rec.hea", ".hidden", "git", "trash", "a._b", "MACOSX", "lost", "my.git"])
def test_what_only_looks_so_is_kept(name: str) -> None:
    assert not is_companion(name)


@pytest.mark.parametrize("layout", ["zip", "stick"])
def test_field_apple_double(real_data: Path, tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture) -> None:
    root = real_data / "field" / "04_apple_double" / layout
    if not root.is_dir():
        pytest.skip("not among the real recordings")
    manifest = ingest(Folder(), root, tmp_path / "out", workers=0, progress=False)
    assert (manifest.records, manifest.patients, manifest.refused) == (6, 6, 0)
    assert any(line.startswith("12 companion files of other systems were left out") for line in caplog.messages)


def test_every_walk_has_the_same_rule(tmp_path: Path, write_record: Writer, wave: Wave, mitdb_excerpts: Path) -> None:
    for name in ("100.hea", "100.atr", "100.dat"):
        (tmp_path / "mitdb").mkdir(exist_ok=True)
        (tmp_path / "mitdb" / name).write_bytes((mitdb_excerpts / name).read_bytes())
        (tmp_path / "mitdb" / f"._{name}").write_bytes(APPLE_DOUBLE)
    assert [reference.record for reference in MitBih().find(tmp_path / "mitdb")] == ["100"]
    write_record(tmp_path / "icentia" / "p00" / "p00000" / "p00000_s00", wave)
    shutil.copytree(tmp_path / "icentia" / "p00", tmp_path / "icentia" / ".Trash-0" / "p00")
    assert [reference.record for reference in Icentia11k().find(tmp_path / "icentia")] == ["p00000_s00"]
    write_record(tmp_path / "cinc" / "training2017" / "A00001", wave)
    (tmp_path / "cinc" / "training2017" / "._A00001.hea").write_bytes(APPLE_DOUBLE)
    (tmp_path / "cinc" / "training2017" / "REFERENCE-v3.csv").write_text("A00001,N\n")
    assert [reference.record for reference in CinC2017().find(tmp_path / "cinc")] == ["A00001"]
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "._r.hea").write_bytes(APPLE_DOUBLE)
    assert recognise(tmp_path / "mac") is None
    with pytest.raises(EcgrayError, match="none; check the path"):
        Folder().find(tmp_path / "mac")


def test_the_listing_does_not_depend_on_the_order_of_entries(
    tmp_path: Path, write_record: Writer, wave: Wave, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b/r2", "a/r1", "c/r3", "a/r0"):
        write_record(tmp_path / name, wave)
    for name in ("a/x.edf", "b/y.edf", "._a", "c/._b"):
        (tmp_path / name).write_bytes(EDF)
    forwards = walk(tmp_path)

    class Backwards:
        def __init__(self, path: Any) -> None:
            with scandir(path) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

        def __enter__(self) -> Any:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Any:
            return self.entries

        def __next__(self) -> Any:
            return next(self.entries)

        def close(self) -> None:
            pass

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Backwards)
    assert walk(tmp_path) == forwards
    assert [path.relative_to(tmp_path).as_posix() for path in forwards.headers] == ["a/r0", "a/r1", "b/r2", "c/r3"]
    assert (forwards.companions, forwards.companion, forwards.kinds, forwards.other) == (
        2,
        "._a",
        (("EDF", 2),),
        "a/x.edf",
    )


def test_folders_that_cannot_be_read_are_named(
    tmp_path: Path, write_record: Writer, wave: Wave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root every folder can be read, so that the system's refusal is played."""
    write_record(tmp_path / "open" / "r1", wave)
    (tmp_path / "locked").mkdir()
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def refusing(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(path).name in ("locked", "shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = Folder().find(tmp_path)
    assert isinstance(found, Found)
    assert "2 folders could not be read (Permission denied): locked, shut" in found.remarks
    shutil.rmtree(tmp_path / "open", ignore_errors=True)
    (tmp_path / "open").exists() and os.rename(tmp_path / "open", tmp_path.parent / "away")
    with pytest.raises(
        EcgrayError, match=r"none; 2 folders could not be read \(Permission denied\): locked, shut; make"
    ):
        Folder().find(tmp_path)


def test_links_to_folders_are_named(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    write_record(tmp_path / "r1", wave)
    (tmp_path / "loop").symlink_to(tmp_path)
    found = Folder().find(tmp_path)
    assert isinstance(found, Found) and "1 link to a folder was not followed: loop" in found.remarks


def test_what_was_left_out_is_told_at_the_end(
    tmp_path: Path, write_record: Writer, wave: Wave, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "db"
    write_record(root / "r1", wave)
    for name in ("a.edf", "b.EDF", "sub/c.rec"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(EDF)
    (root / "image").write_bytes(b"x" * 128 + b"DICM")
    (root / "README.txt").write_text("read me")
    (root / "lost.dat").write_bytes(b"x" * 100)
    (root / "r1.xws").write_text("x")
    ingest(Folder(), root, tmp_path / "out", workers=0, progress=False)
    assert "3 EDF files and 1 DICOM file were left out, not read yet, as a.edf" in caplog.messages
    assert "1 signal file (.dat) has no header (.hea), and was left out, as lost.dat" in caplog.messages


def test_a_signal_file_that_a_header_of_another_name_gives_is_no_orphan(
    tmp_path: Path, write_record: Writer, wave: Wave
) -> None:
    path = write_record(tmp_path / "r1", wave)
    os.rename(tmp_path / "r1.dat", tmp_path / "signals.dat")
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r1.dat", "signals.dat"))
    found = Folder().find(tmp_path)
    assert isinstance(found, Found) and not any(".dat" in line for line in found.remarks)


def test_tables_that_nobody_reads_are_told(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    write_record(tmp_path / "site" / "r1", wave, marks=[(5, "N", "")])
    for name in ("labels.csv", "site/labels.csv", "site/REFERENCE.csv", "Labels.CSV"):
        (tmp_path / name).write_text("record,label\nr1,A\n")
    if len(list(tmp_path.glob("*.csv"))) + len(list(tmp_path.glob("*.CSV"))) < 2:
        pytest.skip("the file system does not tell cases apart")
    found = Folder().find(tmp_path)
    assert isinstance(found, Found) and found.remarks[-1] == "3 CSV files were left out, not read yet, as Labels.CSV"
    found = MitBih().find(tmp_path / "site")
    assert isinstance(found, Found) and found.remarks == ("2 CSV files were left out, not read yet, as REFERENCE.csv",)
