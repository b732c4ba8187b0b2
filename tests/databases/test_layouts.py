"""A folder that is missing, empty or of another layout is named in one line, with the way on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ecgray.databases import DATABASES, CinC2017, Folder, Icentia11k, MitBih
from ecgray.errors import EcgrayError

Writer = Callable[..., Path]
Wave = npt.NDArray[np.int64]


@pytest.fixture
def all_layouts(
    tmp_path: Path, write_record: Writer, wave: Wave, mitdb_excerpts: Path, cinc2017_excerpts: Path
) -> dict[str, Path]:
    write_record(tmp_path / "icentia" / "p00" / "p00000" / "p00000_s00", wave, marks=[(5, "N", "")])
    write_record(tmp_path / "plain" / "rec", wave)
    return {
        "icentia11k": tmp_path / "icentia",
        "mitdb": mitdb_excerpts,
        "cinc2017": cinc2017_excerpts,
        "folder": tmp_path / "plain",
    }


def one_line(error: EcgrayError) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("name", sorted(DATABASES))
def test_missing_empty_and_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for place, words in [("nowhere", "does not exist"), ("file", "is a file"), ("empty", "is empty")]:
        with pytest.raises(EcgrayError, match=words) as error:
            DATABASES[name]().find(tmp_path / place)
        one_line(error.value)


@pytest.mark.parametrize("asked", ["icentia11k", "mitdb", "cinc2017"])
@pytest.mark.parametrize("given", ["icentia11k", "mitdb", "cinc2017", "folder"])
def test_another_layout_is_named(all_layouts: dict[str, Path], asked: str, given: str) -> None:
    if asked == given:
        assert len(DATABASES[asked]().find(all_layouts[given])) > 0
        return
    with pytest.raises(EcgrayError, match=f"it looks like '{given}', use that database") as error:
        DATABASES[asked]().find(all_layouts[given])
    one_line(error.value)


def test_the_folder_to_give_is_named(tmp_path: Path, all_layouts: dict[str, Path], mitdb_excerpts: Path) -> None:
    with pytest.raises(EcgrayError, match=f"'mitdb' was seen in {mitdb_excerpts}, give that folder"):
        MitBih().find(mitdb_excerpts.parent)
    with pytest.raises(EcgrayError, match=r"'icentia11k' was seen in .*icentia, give that folder"):
        Icentia11k().find(all_layouts["icentia11k"] / "p00")
    with pytest.raises(EcgrayError, match=r"'icentia11k' was seen in .*icentia, give that folder"):
        Icentia11k().find(all_layouts["icentia11k"] / "p00" / "p00000")
    with pytest.raises(EcgrayError, match=r"must be read whole, and .*/p00 is a part of it; "):
        Icentia11k().find(all_layouts["icentia11k"] / "p00")
    with pytest.raises(EcgrayError, match=r"'icentia11k' was seen in .*icentia, use that database there"):
        CinC2017().find(tmp_path)


@pytest.mark.parametrize("marks", [None, [(5, "N", "")]])
def test_of_records_in_many_folders_the_root_is_named(
    tmp_path: Path, write_record: Writer, wave: Wave, marks: list[tuple[int, str, str]] | None
) -> None:
    for patient in ("pat000", "pat001"):
        write_record(tmp_path / "site0" / patient / "ecg", wave, marks=marks)
    for database in (MitBih(), CinC2017(), Icentia11k()):
        with pytest.raises(EcgrayError, match=f"'folder' takes every record below {tmp_path}, use that") as error:
            database.find(tmp_path)
        one_line(error.value)
    assert len(Folder().find(tmp_path)) == 2


@pytest.mark.parametrize("name", ["icentia11k", "mitdb", "cinc2017", "folder"])
def test_a_folder_of_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(EcgrayError, match="check the path") as error:
        DATABASES[name]().find(tmp_path)
    assert ("'folder'" in one_line(error.value)) == (name != "folder")


def test_the_pickled_icentia_release_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "00000_batched.pkl.gz").write_bytes(b"x")
    (tmp_path / "00000_batched_lbls.pkl.gz").write_bytes(b"x")
    with pytest.raises(EcgrayError, match=r"unpickling runs code.*WFDB release"):
        Icentia11k().find(tmp_path)


def test_every_known_layout_reads_as_a_folder_too(all_layouts: dict[str, Path]) -> None:
    for name, root in all_layouts.items():
        found = Folder().find(root)
        assert len(found) >= (len(DATABASES[name]().find(root)))


def test_table_of_databases() -> None:
    for name, database in DATABASES.items():
        assert database.name == name
        assert database.title and database.licence and database.citation
