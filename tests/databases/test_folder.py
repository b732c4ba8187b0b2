"""Any folder: ids, patients, labels.csv, leads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import wfdb

from ecgray.databases import RHYTHMS, Folder, Icentia11k, MitBih, Record, RecordRefused, Reference
from ecgray.errors import EcgrayError

Writer = Callable[..., Path]
Wave = npt.NDArray[np.int64]


@pytest.fixture
def archive(tmp_path: Path, write_record: Writer, wave: Wave) -> Path:
    write_record(tmp_path / "a" / "r1", wave, marks=[(5, "N", ""), (9, "+", "(AFIB\0"), (700, "A", "")])
    write_record(tmp_path / "a" / "r2", wave)
    write_record(tmp_path / "b" / "deep" / "r1", np.repeat(wave, 2, axis=1), leads=["I", "V1"])
    write_record(tmp_path / "top", wave)
    return tmp_path


def found(root: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {reference.record: (reference.patient, reference.labels) for reference in Folder().find(root)}


def test_ids_and_patients(archive: Path) -> None:
    expected = {"a/r1": ("a", ()), "a/r2": ("a", ()), "b/deep/r1": ("b/deep", ()), "top": ("top", ())}
    assert found(archive) == expected
    assert list(found(archive / "a")) == ["r1", "r2"]
    assert {patient for patient, _ in found(archive / "a").values()} == {"r1", "r2"}


def test_records_in_one_subfolder_are_patients_of_their_own(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    for name in ("x", "y"):
        write_record(tmp_path / "data" / name, wave)
    assert found(tmp_path) == {"data/x": ("data/x", ()), "data/y": ("data/y", ())}


def test_annotations_and_leads(archive: Path) -> None:
    read = {reference.record: Folder().read(reference) for reference in Folder().find(archive)}
    assert read["a/r1"].beats.tolist() == [5, 700]
    assert read["a/r1"].rhythms.tolist() == [[9, 1000, 3]]
    assert (read["a/r1"].annotated, read["a/r2"].annotated) == (True, False)
    assert read["b/deep/r1"].leads == ("I", "V1")
    single = Folder(lead=("V1",))
    reference = next(reference for reference in single.find(archive) if reference.record == "b/deep/r1")
    assert single.read(reference).leads == ("V1",)
    with pytest.raises(RecordRefused, match="no lead V1; its leads are lead0"):
        single.read(single.find(archive)[0])


def test_signals_that_are_no_voltage_are_left_out(tmp_path: Path, wave: Wave) -> None:
    np.repeat(wave, 2, axis=1).astype("<i2").tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text("r 2 250 1000\nr.dat 16 10/uV 16 0 0 0 0 ECG\nr.dat 16 10/mmHg 16 0 0 0 0 ABP\n")
    record = Folder().read(Folder().find(tmp_path)[0])
    assert (record.leads, record.gain.tolist()) == (("ECG",), [10_000])


def test_leads_are_taken_by_name_in_the_order_asked_for(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    three = wave * [1, 2, 3]
    write_record(tmp_path / "a", three, leads=["CM5", "CC5", "ML"])
    write_record(tmp_path / "b", three[:, ::-1], leads=["ML", "CC5", "CM5"])
    write_record(tmp_path / "c", three[:, :2], leads=["CM5", "ML"])
    database = Folder(lead=("CC5", "CM5"))
    first, second, third = database.find(tmp_path)
    for reference in (first, second):
        record = database.read(reference)
        assert record.leads == ("CC5", "CM5")
        assert np.array_equal(record.signal, three[:, [1, 0]].T)
    with pytest.raises(RecordRefused, match="no lead CC5; its leads are CM5, ML"):
        database.read(third)
    with pytest.raises(EcgrayError, match="lead must name each lead once, got 'II II'"):
        Folder(lead=("II", "II"))


def test_a_lead_asked_for_that_is_no_voltage_is_refused(tmp_path: Path, wave: Wave) -> None:
    np.repeat(wave, 2, axis=1).astype("<i2").tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text("r 2 250 1000\nr.dat 16 10/uV 16 0 0 0 0 ECG\nr.dat 16 10/mmHg 16 0 0 0 0 ABP\n")
    database = Folder(lead=("ECG", "ABP"))
    with pytest.raises(RecordRefused, match="its lead ABP is no voltage in V, mV, uV or nV; its unit is mmhg"):
        database.read(database.find(tmp_path)[0])


def test_labels_and_patients_from_the_table(archive: Path) -> None:
    (archive / "labels.csv").write_text(
        "\ufeffpatient, record,label\r\nP7,a/r1,AF;PVC \r\n,r2,\r\nP7,b/deep/r1,N\r\nP9,elsewhere,N\r\n".replace(
            ", ", ","
        )
    )
    assert found(archive) == {
        "a/r1": ("P7", ("AF", "PVC")),
        "a/r2": ("a", ()),
        "b/deep/r1": ("P7", ("N",)),
        "top": ("top", ()),
    }


def test_cells_may_be_quoted(archive: Path) -> None:
    (archive / "labels.csv").write_text('"record","label"\n"a/r1","atrial fibrillation, paroxysmal;N"\n')
    assert found(archive)["a/r1"] == ("a", ("atrial fibrillation, paroxysmal", "N"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a/r1,N\n", "columns record and label"),
        ("record;label\na/r1;N\n", "columns record and label"),
        ("", "columns record and label"),
        ("record,label,label\na/r1,N,A\n", "each once"),
        ("record,label\na/r1,N,A\n", "2 cells in each row, but line 2 has 3"),
        ("record,label\n\na/r1\n", "2 cells in each row, but line 3 has 1"),
        ('record,label\n"a/r1,N\na/r2,N\n', "cannot be read"),
        ("record;label;patient\na/r1;N;1\n", "got 'record;label;patient'; separate cells by commas"),
        ("record\tlabel\na/r1\tN\n", "; separate cells by commas"),
        ("record,patient\na/r1,1\n", "got 'record,patient'; add the column label, which may be empty"),
        ("Record,Label\na/r1,1\n", "got 'Record,Label'; correct that row"),
        ("record,label\na/r1,N\na/r1,A\n", "a/r1' stands again in line 3"),
        ("record,label\nr2,N\na/r2,N\n", "a/r2' stands again in line 3"),
        ("record,label\nx,N\n", "none of its 1 rows does"),
        ("record,label\nr1,N\n", "none of its 1 rows does"),  # two records bear that name
    ],
)
def test_a_bad_table_is_named(archive: Path, text: str, reason: str) -> None:
    (archive / "labels.csv").write_text(text)
    with pytest.raises(EcgrayError, match=reason) as error:
        found(archive)
    assert "\n" not in str(error.value)


def test_a_table_in_another_encoding_is_named(archive: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        (archive / "labels.csv").write_bytes("record,label\ntop,M\u00fcller\n".encode(encoding))
        with pytest.raises(EcgrayError, match="must be text in UTF-8, and is not; save it as CSV in UTF-8"):
            found(archive)
    (archive / "labels.csv").write_bytes("record,label\ntop,M\u00fcller\n".encode("utf-8-sig"))
    assert found(archive)["top"][1] == ("M\u00fcller",)


def test_links_to_folders_are_not_followed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (archive / "loop").symlink_to(archive)
    assert len(found(archive)) == 4


def test_a_first_row_that_runs_over_lines_is_shown_in_one(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    write_record(tmp_path / "r", wave)
    (tmp_path / "labels.csv").write_text('"record,label\nr,A')
    with pytest.raises(EcgrayError) as error:
        Folder().find(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "labels.csv").write_text('"record,label\nr,A"\n')
    with pytest.raises(EcgrayError, match="must have the columns") as error:
        Folder().find(tmp_path)
    assert "\n" not in str(error.value)


def read_one(path: Path, **options: str) -> Record:
    return Folder(**options).read(Reference(record=path.name, patient=path.name, path=path))


def test_marks_past_the_end_are_left_out_and_counted(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    marks = [(100, "+", "(AFIB"), (100, "N", ""), (999, "N", ""), (1000, "V", ""), (1400, "+", "(N")]
    record = read_one(write_record(tmp_path / "late", wave, marks=marks))
    assert record.beats.tolist() == [100, 999] and record.rhythms.tolist() == [[100, 1000, RHYTHMS.index("afib")]]
    assert record.attributes == {"annotations_outside": 2} and record.annotated
    assert record.source_symbols == {"N": 2, "V": 1, "+": 2, "+ (AFIB": 1, "+ (N": 1}
    # Marked at half the rate, the last sample but one is rounded to the length.
    half = read_one(write_record(tmp_path / "half", wave, marks=[(7, "N", ""), (500, "N", "")], ann_fs=125))
    assert half.beats.tolist() == [14] and half.attributes == {"annotations_outside": 1}
    many = write_record(tmp_path / "many", wave, marks=[(250 * n + 1, "N", "") for n in range(7)])
    with pytest.raises(RecordRefused, match="3 of 7 annotations lie outside its 1000 samples"):
        read_one(many)


@pytest.mark.parametrize(
    ("content", "annotated"),
    [(b"", False), (b"\0\0", False), (b"\x09\x70\x05\xfc(AFIB\0\0\0", False), (b"\x09\x04\0\0", True)],
)
def test_a_file_without_beats_leaves_them_unknown(
    tmp_path: Path, write_record: Writer, wave: Wave, content: bytes, annotated: bool
) -> None:
    path = write_record(tmp_path / "r", wave)
    path.with_suffix(".atr").write_bytes(content)
    record = read_one(path)
    assert record.annotated == annotated == (len(record.beats) > 0)
    assert len(record.rhythms) == (b"(AFIB" in content)
    # Icentia11K names every beat, so that a file without beats says that there are none.
    icentia11k = Icentia11k().read(Reference(record="r", patient="r", path=path))
    assert icentia11k.annotated == (content != b"")


def test_the_annotator_is_named(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    path = write_record(tmp_path / "r", wave, marks=[(100, "+", "(AFIB")])
    wfdb.wrann("r", "qrs", np.array([200, 400]), symbol=["N", "N"], write_dir=str(tmp_path))
    assert read_one(path).beats.tolist() == []
    assert read_one(path, annotator="qrs").beats.tolist() == [200, 400]
    (reference,) = MitBih(annotator="qrs", lead="lead0").find(tmp_path)
    assert MitBih(annotator="qrs", lead="lead0").read(reference).beats.tolist() == [200, 400]
    assert len(Folder(annotator="qrs").find(tmp_path)) == 1
    for database in (Folder(annotator="qrx"), MitBih(annotator="qrx")):
        with pytest.raises(EcgrayError, match=r"\.qrx"):
            database.find(tmp_path)
    for kind in (Folder, MitBih):
        with pytest.raises(EcgrayError, match="suffix of annotation files, as atr or qrs, got"):
            kind(annotator="../qrs")


def test_segments_of_one_recording_are_one_patient(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    for name in ("a", "s1", "s2", "t1"):
        write_record(tmp_path / name, wave, marks=[(5, "N", "")])
    (tmp_path / "m.hea").write_text("m/2 1 250 2000\ns1 1000\ns2 1000\n")
    (tmp_path / "n.hea").write_text("n/3 1 250 1500\nn_layout 0\n~ 500\nt1 1000\n# a comment\n")
    expected = {"a": "a", "m": "m", "s1": "m", "s2": "m", "n": "n", "t1": "n"}
    assert {record: patient for record, (patient, _) in found(tmp_path).items()} == expected
    assert {reference.record: reference.patient for reference in MitBih().find(tmp_path)} == expected
    with pytest.raises(RecordRefused, match="multi-segment; its segments are records of their own, of one patient"):
        read_one(tmp_path / "m")
    assert wfdb.rdrecord(str(tmp_path / "m")).sig_len == 2000
    (tmp_path / "labels.csv").write_text("record,label,patient\nm,,P1\nt1,,P2\n")
    assert [found(tmp_path)[record][0] for record in ("m", "s1", "s2", "n", "t1")] == ["P1", "P1", "P1", "P2", "P2"]


def test_segments_of_one_recording_are_one_patient_in_a_subfolder(
    tmp_path: Path, write_record: Writer, wave: Wave
) -> None:
    write_record(tmp_path / "data" / "s1", wave)
    (tmp_path / "data" / "m.hea").write_text("m/1 1 250 1000\ns1 1000\n")
    assert found(tmp_path) == {"data/m": ("data/m", ()), "data/s1": ("data/m", ())}


@pytest.fixture
def visits(tmp_path: Path, write_record: Writer, wave: Wave) -> Path:
    """Two people, twice each, and a record of nobody."""
    for name in ("clinic/pat000/visit0/ecg", "clinic/pat000/visit1/ecg", "clinic/pat001_0", "clinic/pat001_1", "test"):
        write_record(tmp_path / name, wave)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "patients"),
    [(r"pat\d+", ("pat000", "pat001", "")), (r"pat(\d+)", ("000", "001", "")), (r"(x)|pat\d+", ("", "", ""))],
)
def test_the_patient_is_what_a_pattern_finds(visits: Path, pattern: str, patients: tuple[str, str, str]) -> None:
    database = Folder(patient=pattern)
    references = {reference.record: reference for reference in database.find(visits)}
    first, second, nobody = patients
    assert {record: reference.patient for record, reference in references.items()} == {
        "clinic/pat000/visit0/ecg": first,
        "clinic/pat000/visit1/ecg": first,
        "clinic/pat001_0": second,
        "clinic/pat001_1": second,
        "test": nobody,
    }
    with pytest.raises(RecordRefused, match="its path holds no patient by --patient"):
        database.read(references["test"])


def test_a_patient_in_the_table_wins_over_the_pattern(visits: Path) -> None:
    (visits / "labels.csv").write_text("record,label,patient\ntest,N,pat000\nclinic/pat001_1,N,\npat001_0,N,P9\n")
    database = Folder(patient=r"pat\d+")
    references = {reference.record: reference for reference in database.find(visits)}
    assert [references[name].patient for name in ("test", "clinic/pat001_1", "clinic/pat001_0")] == [
        "pat000",
        "pat001",
        "P9",
    ]
    assert database.read(references["test"]).patient == "pat000"


def test_a_pattern_that_is_none_or_never_ends_is_refused(visits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pattern in ("pat(", "*", "a{99999999999}"):
        with pytest.raises(EcgrayError, match=r"^patient must be a pattern of Python's re.*correct it\.$"):
            Folder(patient=pattern)
    monkeypatch.setattr("ecgray.databases.folder._SEARCH_S", 1.0)
    (visits / f"{'a' * 60}.hea").write_text("")
    with pytest.raises(EcgrayError, match=r"^patient must be a pattern that is found quickly.*inside a repeat\.$"):
        Folder(patient="(a+)+b").find(visits)
