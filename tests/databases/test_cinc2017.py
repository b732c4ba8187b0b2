"""CinC2017: versions of the labels told by content, both layouts, both date forms."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgray.databases import CinC2017
from ecgray.databases.cinc2017_versions import _TELLING, possible_versions
from ecgray.errors import EcgrayError

FILES = {"v3": "REFERENCE-v3.csv", "v2": "REFERENCE.csv", "original": "REFERENCE-original.csv"}
TOTALS = {  # of all 8,528 records
    "v3": {"N": 5076, "A": 758, "O": 2415, "~": 279},
    "v2": {"N": 5050, "A": 738, "O": 2456, "~": 284},
    "original": {"N": 5154, "A": 771, "O": 2557, "~": 46},
}


@pytest.fixture
def copy(tmp_path: Path, cinc2017_excerpts: Path) -> Path:
    """A copy of the excerpts without any reference table, as tmp_path/training2017."""
    shutil.copytree(cinc2017_excerpts, tmp_path, dirs_exist_ok=True)
    for table in (tmp_path / "training2017").glob("REFERENCE*"):
        table.unlink()
    return tmp_path


def labels(root: Path, version: str) -> Counter[str]:
    found = CinC2017(labels=version).find(root)  # type: ignore[arg-type]
    return Counter(label for reference in found for label in reference.labels)


def table(excerpts: Path, version: str) -> str:
    return (excerpts / "training2017" / FILES[version]).read_text()


def test_records_and_labels(cinc2017_excerpts: Path) -> None:
    assert labels(cinc2017_excerpts, "v3") == {"N": 9, "A": 6, "O": 5, "~": 4}
    assert labels(cinc2017_excerpts, "v2") == {"N": 9, "A": 7, "O": 3, "~": 5}
    assert labels(cinc2017_excerpts, "original") == {"N": 10, "A": 8, "O": 5, "~": 1}
    for reference in CinC2017().find(cinc2017_excerpts / "training2017"):
        record = CinC2017().read(reference)
        physical = wfdb.rdrecord(str(reference.path)).p_signal[:, 0]
        np.testing.assert_allclose((record.signal[0] - record.baseline[0]) / record.gain[0], physical, atol=1e-9)
        assert (record.fs, record.leads, record.annotated, record.patient) == (300, ("ECG",), False, record.id)
        assert record.labels == reference.labels


@pytest.mark.parametrize("held", ["v3", "v2", "original"])
@pytest.mark.parametrize("asked", ["v3", "v2", "original"])
@pytest.mark.parametrize("named", ["REFERENCE.csv", "REFERENCE-v3.csv", "REFERENCE-original.csv"])
def test_the_version_is_told_by_content(copy: Path, cinc2017_excerpts: Path, held: str, asked: str, named: str) -> None:
    (copy / "training2017" / named).write_text(table(cinc2017_excerpts, held))
    if held == asked:
        assert labels(copy, asked).total() == 24
    else:
        with pytest.raises(EcgrayError, match=f"labels of version {asked}, but {named} holds {held}") as error:
            labels(copy, asked)
        assert "\n" not in str(error.value)


def test_the_right_one_of_several_is_taken_whatever_their_names(copy: Path, cinc2017_excerpts: Path) -> None:
    (copy / "REFERENCE-v3.csv").write_text(table(cinc2017_excerpts, "original"))
    (copy / "training2017" / "REFERENCE.csv").write_text(table(cinc2017_excerpts, "v3"))
    assert labels(copy, "v3") == {"N": 9, "A": 6, "O": 5, "~": 4}
    assert labels(copy, "original") == {"N": 10, "A": 8, "O": 5, "~": 1}


def test_where_the_content_cannot_tell_the_name_decides(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = copy / "training2017"
    for file in training.glob("A*"):
        if file.stem != "A05493":
            file.unlink()
    (training / "REFERENCE.csv").write_text("A05493,N\n")
    assert all(labels(copy, version).total() == 1 for version in FILES)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "REFERENCE.csv of cinc2017 was taken for labels of version v3" in line] == [
        said[0]
    ]
    assert len(said) == 3 and "may be original or v2 or v3; rename it to REFERENCE-v3.csv" in said[0]
    (training / "REFERENCE-original.csv").write_text("A05493,O\n")
    assert labels(copy, "v3") == {"N": 1}
    capsys.readouterr()
    assert labels(copy, "original") == {"O": 1}
    assert capsys.readouterr().err == ""
    (training / "REFERENCE.csv").unlink()
    with pytest.raises(EcgrayError, match="version v3"):
        labels(copy, "v3")


def test_labels_that_a_user_corrected_keep_their_version() -> None:
    published = {record: versions[2] for record, versions in _TELLING.items()}
    assert possible_versions(published) == {"v3"}
    for record in list(published)[:10]:
        published[record] = "N"
    assert possible_versions(published) == {"v3"}
    assert possible_versions(dict.fromkeys(_TELLING, "N")) == {"v3", "v2", "original"}
    assert possible_versions({"B00001": "N"}) == {"v3", "v2", "original"}
    assert possible_versions({"A00005": "O", "A00022": "O", "A00066": "O"}) == {"original"}
    assert possible_versions({"A00005": "A", "A00022": "~", "A00066": "O"}) == {"v2"}
    assert possible_versions({"A00005": "A", "A00022": "~"}) == {"v3", "v2"}


@pytest.mark.parametrize("first", ["record,label", "Recording,Label", "\ufeffname,class", "id,rhythm,extra"])
def test_header_row_crlf_and_blank_lines(copy: Path, cinc2017_excerpts: Path, first: str) -> None:
    body = table(cinc2017_excerpts, "v3").replace("\n", " \r\n")
    (copy / "training2017" / "REFERENCE-v3.csv").write_bytes(f"{first}\r\n{body}\r\n\r\n".encode())
    assert labels(copy, "v3").total() == 24


@pytest.mark.parametrize("row", ["A00405", "A00405,B", "A00405,", "A00405,O"])
def test_a_bad_row_is_named(copy: Path, cinc2017_excerpts: Path, row: str) -> None:
    body = table(cinc2017_excerpts, "v3") + row + "\n"
    (copy / "training2017" / "REFERENCE-v3.csv").write_text(body)
    with pytest.raises(EcgrayError, match=r"line 25 is 'A00405"):
        labels(copy, "v3")


def test_a_row_of_unprintable_bytes_makes_no_long_reason(copy: Path, cinc2017_excerpts: Path) -> None:
    (copy / "training2017" / "REFERENCE-v3.csv").write_text(table(cinc2017_excerpts, "v3") + "\0" * 1000)
    with pytest.raises(EcgrayError, match="line 25 is") as refused:
        labels(copy, "v3")
    assert len(str(refused.value)) < 400


def test_listed_files_that_are_not_there_and_files_that_are_not_listed(copy: Path, cinc2017_excerpts: Path) -> None:
    rows = table(cinc2017_excerpts, "v3").splitlines()
    (copy / "training2017" / "REFERENCE-v3.csv").write_text("\n".join(["A09998,N", *rows[1:]]) + "\n")
    found = {reference.record: reference.labels for reference in CinC2017().find(copy)}
    assert "A09998" not in found and "A09999" not in found
    assert found[rows[0].split(",")[0]] == ()


def test_unknown_version_and_no_table(copy: Path) -> None:
    with pytest.raises(EcgrayError, match="v4"):
        CinC2017(labels="v4")  # type: ignore[arg-type]
    with pytest.raises(EcgrayError, match=r"REFERENCE-v3\.csv.*'folder'"):
        CinC2017().find(copy / "training2017")


def test_real_set(real_data: Path) -> None:
    for root in (real_data / "cinc2017", real_data / "cinc2017" / "training2017"):
        for version, file in FILES.items():
            direct = Counter(
                line.split(",")[1].strip()
                for line in (real_data / "cinc2017" / "training2017" / file).read_text().splitlines()
            )
            assert labels(root, version) == direct
            if direct.total() == 8528:
                assert direct == TOTALS[version]
            assert all(direct[label] <= total for label, total in TOTALS[version].items())


def test_iso_dates(real_data: Path, tmp_path: Path) -> None:
    shutil.copytree(real_data / "cinc2017" / "iso_date_headers", tmp_path, dirs_exist_ok=True)
    (tmp_path / "REFERENCE-v3.csv").write_text("A00001,N\n")
    found = CinC2017().find(tmp_path)
    assert len(found) == 12
    for reference in found:
        record = CinC2017().read(reference)
        assert (record.fs, record.leads, record.gain.tolist()) == (300, ("ECG",), [1000])
