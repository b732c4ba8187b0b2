"""Whose a record is: by labels.csv, pattern, header, name and folder, in this order; and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ecgray.databases import Folder, Icentia11k, MitBih
from ecgray.databases.patients import carried, named_folder, own_folder, stated
from ecgray.databases.record import Database, Found

Writer = Callable[..., Path]
Wave = npt.NDArray[np.int64]


@pytest.mark.parametrize(
    ("comment", "patient"),
    [
        ("patient 1", "1"),  # incartdb
        ("Patient: 12", "12"),
        ("Subject: S01", "S01"),
        ("Subject ID: 17", "17"),
        ("Subject ID: ABC", "ABC"),
        ("<subject_id>: 10000032", "10000032"),
        ("patient_id = A-3", "A-3"),
        ("PatientID: P-9", "P-9"),
        ("Patient no. 3", "3"),
        ("Patient #3", "3"),
        ("patient number 12", "12"),
        ("Participant 12", "12"),
        ("Patient 007.", "007"),
        ("Patient: 12 (male)", "12"),
        ("Age: 55, Sex: M, Patient: 7", "7"),
        ("age: 45 patient: 3 sex: M", "3"),
        ("<age>: 65 <sex>: F <patient>: 7", "7"),
        ("patient: 'S-2'", "S-2"),
        ("subject_12", "12"),
        ("Patient003", "003"),
        ("patient 1 record 3", "1"),
        ("Patient: 4, visit 2", "4"),
        ("Subject: S01 session 2", "S01"),
        ("Participant 9 / night 1", "9"),
        ("patient 4 (second visit)", "4"),
    ],
)
def test_a_statement(comment: str, patient: str) -> None:
    assert stated(["69 M 1085 1629 x1", comment]) == (patient,)
    assert stated([f"# {comment} "]) == (patient,)


@pytest.mark.parametrize(
    "comment",
    [
        "the patient has 2 leads off",
        "Patient had 3 strokes",
        "patient 1 had a stroke",
        "The PVCs are uniform, patient 3 of the study was older",
        "Patient: male",
        "Patient: 65M",
        "Patient: 65yo",
        "Patient 65 years old",
        "Patient: 12 years",
        "Patient: unknown",
        "Patient ID: unknown",
        "Patient ID:",
        "Patient is 12",
        "Subject: 1955-03-12",
        "Subject: see page 3",
        "Subject: normal sinus rhythm 3",
        "inpatient 12",
        "Patient 65, male",
        "patient 3 of record 201",
        "subject12 was asleep",
        "patient_age: 55",
        "Patient age 55",
        "patients 12",
        "69 M 1085 1629 x1",
        "Age: 62 Sex: M",
        "#",
        "",
    ],
)
def test_prose_is_no_statement(comment: str) -> None:
    assert stated([comment]) == ()


def test_every_real_header_but_those_of_incart_says_nothing(real_data: Path) -> None:
    """Over a thousand headers of mitdb, cinc2017, ptb-xl, ludb, cinc2020 and cinc2021."""
    seen = 0
    for header in sorted(real_data.rglob("*.hea")):
        if "field" in header.parts:
            continue
        seen += 1
        text = header.read_text("utf-8", "replace")
        assert stated(line for line in text.splitlines() if line.startswith("#")) == (), header
    assert seen > 100


def test_several_statements_are_given_in_order_and_each_once() -> None:
    assert stated(["patient 3", "Patient: 3", "Subject: 9"]) == ("3", "9")


def test_comments_without_end_take_no_time() -> None:
    began = time.process_time()
    for text in ("patient" * 10_000, "patient: " + "1" * 100_000, "a: b " * 20_000 + "patient: 7", ", " * 50_000):
        assert stated([text] * 1000) == ()
    assert time.process_time() - began < 60


@pytest.mark.parametrize(
    ("record", "patient"),
    [
        ("p00000_s00", "p00000"),
        ("ECG_Data_p00001/s03/p00001_s03", "p00001"),
        ("files/p1000/p10000032/s40689238/40689238", "p10000032"),
        ("p00/p000107/p000107-2121-11-30-20-03n", "p000107"),
        ("118e24", "118"),
        ("nstdb/119e_6", "119"),
        ("slp01a", "slp01"),
        ("s20272", "s2027"),  # ltstdb: the second record of patient 027
        ("s20011", "s2001"),
        ("Training_set_I/data_12_3", "data_12"),  # CPSC2021
        ("iaf1_svc", "iaf1"),
        ("data_2020_1", None),
        ("s10001", None),
        ("p1_s1", None),
        ("201", None),
        ("s0010_re", None),
        ("files/p1000/p10000032/s40689238/other", None),
    ],
)
def test_names_that_carry_their_patient(record: str, patient: str | None) -> None:
    assert carried(record) == patient


@pytest.mark.parametrize(
    ("record", "folder"),
    [
        ("clinic/pat000/visit0/ecg", "clinic/pat000"),
        ("sub-01/ses-1/ecg", "sub-01"),
        ("patient001/s0010_re", "patient001"),
        ("Subject 3/night/1", "Subject 3"),
        ("a/b/c", ""),
        ("patients/x", ""),
        ("ecg", ""),
    ],
)
def test_folders_that_are_named_as_a_patients(record: str, folder: str) -> None:
    assert named_folder(record) == folder


@pytest.mark.parametrize(
    ("record", "folder"),
    [
        ("P001/visit2/ecg", "P001"),
        ("P001/ses-1/night 2/ecg", "P001"),
        ("P001/2019-03-21/ecg", "P001"),
        ("P001/20190321_1530/ecg", "P001"),
        ("P001/day1/lab/ecg", "P001/day1/lab"),
        ("visit1/ecg", "visit1"),
        ("daylight/ecg", "daylight"),
        ("ecg", ""),
    ],
)
def test_a_folder_of_a_visit_is_of_the_patient_above(record: str, folder: str) -> None:
    assert own_folder(record) == folder


def patients(database: Database, root: Path) -> dict[str, str]:
    return {reference.record: reference.patient for reference in database.find(root)}


def remarks(database: Database, root: Path) -> list[str]:
    found = database.find(root)
    assert isinstance(found, Found)
    assert all("\n" not in line and len(line) < 300 for line in found.remarks)
    return list(found.remarks)


@pytest.fixture
def write(write_record: Writer, wave: Wave) -> Callable[..., Path]:
    """write(path, comment...): a record with these comments in its header, and one beat."""

    def written(path: Path, *comments: str) -> Path:
        return write_record(path, wave, leads=["II"], marks=[(5, "N", "")], comments=list(comments))

    return written


@pytest.mark.parametrize("database", [Folder(), MitBih(lead="II")], ids=lambda database: database.name)
def test_the_header_says_whose_a_record_is(tmp_path: Path, write: Writer, database: Database) -> None:
    for number in range(12):
        write(tmp_path / f"I{number:02d}", "<age>: 65 <sex>: F", f"patient {number // 3 + 1}", "PVCs, noise")
    found = patients(database, tmp_path)
    assert len(found) == 12
    assert {record: int(patient) for record, patient in found.items()} == {
        f"I{number:02d}": number // 3 + 1 for number in range(12)
    }
    assert remarks(database, tmp_path) == []


def test_field_patient_in_header(real_data: Path) -> None:
    root = real_data / "field" / "10_patient_in_header"
    if not root.is_dir():
        pytest.skip("not among the real recordings")
    for database in (Folder(), MitBih(lead="II")):
        found = patients(database, root)
        assert (len(found), len(set(found.values()))) == (12, 4)


def test_table_pattern_header_name_and_folder_in_this_order(tmp_path: Path, write: Writer) -> None:
    name = "ward/pat9/p00001_s00"
    write(tmp_path / name, "patient 7")
    write(tmp_path / "other", "x")
    assert patients(Folder(), tmp_path)[name] == "7"
    assert patients(Folder(patient="ward"), tmp_path)[name] == "ward"
    (tmp_path / "labels.csv").write_text("record,label,patient\np00001_s00,N,Z\n")
    assert patients(Folder(patient="ward"), tmp_path)[name] == "Z"
    (tmp_path / "labels.csv").unlink()
    header = tmp_path / f"{name}.hea"
    header.write_text(header.read_text().replace("# patient 7", "# the patient was ill"))
    assert patients(Folder(), tmp_path)[name] == "p00001"
    write(tmp_path / "ward" / "pat9" / "monday" / "ecg")
    assert patients(Folder(), tmp_path)["ward/pat9/monday/ecg"] == "ward/pat9"


def test_a_record_of_the_same_tape_is_of_the_same_patient(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "201", "68 M 1960 2851 x1")
    write(tmp_path / "202", "68 M 1960 2851 x1", "The PVCs are uniform.  This record was taken from the same",
          "analog tape as record 201.")  # fmt: skip
    write(tmp_path / "203", "43 M 1741 2851 x1", "taken from the same analog tape as record 999")
    assert patients(Folder(), tmp_path) == {"201": "201", "202": "201", "203": "203"}


def test_an_excerpt_is_of_the_patient_of_its_source(tmp_path: Path, write: Writer) -> None:
    for name in ("108", "114", "x_mitdb/x_108", "x_mitdb/x_117"):
        write(tmp_path / name)
    expected = {"108": "108", "114": "114", "x_mitdb/x_108": "108", "x_mitdb/x_117": "x_mitdb"}
    assert patients(Folder(), tmp_path) == expected


def test_real_201_and_202_are_one_patient_in_any_folder(real_data: Path) -> None:
    found = patients(Folder(), real_data / "mitdb")
    if not {"201", "202"} <= found.keys():
        pytest.skip("201 and 202 are not both there")
    assert found["201"] == found["202"]
    excerpts = {record: patient for record, patient in found.items() if record.startswith("x_mitdb/")}
    assert all(patient == found.get(record[10:], "x_mitdb") for record, patient in excerpts.items())
    assert len(set(found.values()) - {"x_mitdb"}) == len(found) - len(excerpts) - 1


@pytest.mark.parametrize("layout", ["p00/{p}/{s}", "{p}/{s}", "{s}", "ECG_Data_{p}/{n}/{s}"])
def test_segments_are_found_by_their_names_in_any_folders(tmp_path: Path, write: Writer, layout: str) -> None:
    for patient in ("p00000", "p00001", "p00002"):
        for segment in ("s00", "s01", "s02"):
            write(tmp_path / layout.format(p=patient, n=segment, s=f"{patient}_{segment}"))
    segments = patients(Icentia11k(), tmp_path)
    assert segments == {f"p0000{p}_s0{s}": f"p0000{p}" for p in range(3) for s in range(3)}
    whole = patients(Folder(), tmp_path)
    assert sorted(whole.values()) == sorted(segments.values())
    assert remarks(Folder(), tmp_path) == remarks(Icentia11k(), tmp_path) == []


def test_field_icentia_layouts(real_data: Path) -> None:
    root = real_data / "field" / "12_icentia_layouts"
    if not root.is_dir():
        pytest.skip("not among the real recordings")
    for layout in ("flat", "nogroup", "perseg"):
        for database in (Icentia11k(), Folder()):
            found = patients(database, root / layout)
            assert (len(found), set(found.values())) == (9, {"p00000", "p00001", "p00002"})


def test_segments_of_a_recording_are_its_patients(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "s1")
    write(tmp_path / "s2", "patient 9")
    (tmp_path / "m.hea").write_text("m/2 1 250 2000\ns1 1000\ns2 1000\n# Subject: 4\n")
    for database in (Folder(), MitBih(lead="II")):
        assert patients(database, tmp_path) == {"m": "4", "s1": "4", "s2": "9"}


def test_headers_that_name_one_signal_file_are_of_one_patient(tmp_path: Path, write: Writer) -> None:
    """The layout of apnea-ecg: a01r is the breathing of a01, and a01er holds the signals of both."""
    for name in ("a01", "a01r", "a02"):
        write(tmp_path / name)
    lines = [(tmp_path / f"{name}.hea").read_text().splitlines()[1] for name in ("a01", "a01r")]
    (tmp_path / "a01er.hea").write_text("\n".join(["a01er 2 250 1000", *lines, ""]))
    for database in (Folder(), MitBih(lead="II")):
        found = patients(database, tmp_path)
        assert found["a01"] == found["a01er"] == found["a01r"] != found["a02"]
    own = "nothing tells patients apart: each recording counts as a patient of its own; give --patient or labels.csv"
    assert remarks(Folder(), tmp_path) == [own]
    (tmp_path / "a01er.hea").write_text("\n".join(["a01er 2 250 1000", *lines, "# patient 7", ""]))
    found = patients(Folder(), tmp_path)
    assert (found["a01"], found["a01r"], found["a02"]) == ("7", "7", "a02")
    (tmp_path / "labels.csv").write_text("record,label,patient\na01er,,P1\n")
    assert patients(Folder(), tmp_path) == {"a01": "P1", "a01er": "P1", "a01r": "P1", "a02": "a02"}


def test_signals_without_a_file_join_no_records(tmp_path: Path, write: Writer) -> None:
    """The layouts of multi-segment records: each names ~ in place of a file."""
    for name in ("1", "2"):
        write(tmp_path / f"{name}_0001")
        (tmp_path / f"{name}_layout.hea").write_text(f"{name}_layout 1 250 0\n~ 0 200/mV 8 0 0 0 0 II\n")
        (tmp_path / f"{name}.hea").write_text(f"{name}/3 1 250 3000\n{name}_layout 0\n{name}_0001 1000\n~ 2000\n")
    found = patients(Folder(), tmp_path)
    assert found["1_0001"] == "1" and found["2_0001"] == "2"


def test_a_person_named_by_table_and_by_header_is_one_person(tmp_path: Path, write: Writer) -> None:
    for number in range(4):
        write(tmp_path / f"r{number}", f"patient {number // 2 + 8}")
    (tmp_path / "labels.csv").write_text("record,label,patient\nr0,,P1\n")
    assert patients(Folder(), tmp_path) == {"r0": "P1", "r1": "P1", "r2": "9", "r3": "9"}


def test_where_nothing_tells_patients_apart_that_is_said(tmp_path: Path, write: Writer) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / name)
    own = "nothing tells patients apart: each record counts as a patient of its own; give --patient or labels.csv"
    assert remarks(Folder(), tmp_path) == [own]
    assert remarks(Folder(patient="[abc]"), tmp_path) == []
    (tmp_path / "labels.csv").write_text("record,label,patient\na,,1\nb,,1\nc,,2\n")
    assert remarks(Folder(), tmp_path) == []
    write(tmp_path / "site" / "d")
    write(tmp_path / "site" / "e")
    (tmp_path / "labels.csv").unlink()
    assert remarks(Folder(), tmp_path) == [
        own.replace("each record", "each of 3 records"),
        "patients of 2 of 5 records are told apart by folder alone; give --patient or labels.csv where that is wrong",
    ]


def test_what_is_ambiguous_is_said(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "a" / "r1", "Patient: 7")
    write(tmp_path / "b" / "r2", "subject_id: 7")
    write(tmp_path / "b" / "r3", "Subject: AB")
    write(tmp_path / "b" / "r4", "patient 3", "Subject: 9")
    assert patients(Folder(), tmp_path) == {"a/r1": "7", "b/r2": "7", "b/r3": "b", "b/r4": "3"}
    assert remarks(Folder(), tmp_path) == [
        "the headers of 3 of 4 records name their patient; the others count by their folder or name, or as a patient"
        " each",
        "1 header names more than one patient, and the first is taken, as in r4: 3, 9",
        "1 header speaks of a patient in words that are no id, as r3: 'Subject: AB'; that counts for nothing",
        "1 patient is named by headers in more than one folder, as 7: all records of one such name count as one"
        " patient's",
        "patients of 1 of 4 records are told apart by folder alone; give --patient or labels.csv where that is wrong",
    ]
    write(tmp_path / "b" / "r4", "Patient 65, male")
    assert "1 header speaks of a patient in words that are no id" not in remarks(Folder(), tmp_path)[1]
    assert "2 headers speak of a patient in words that are no id, as r3" in remarks(Folder(), tmp_path)[1]


def test_a_table_that_says_less_or_more_than_there_is(tmp_path: Path, write: Writer) -> None:
    for name in ("r1", "r2", "r3"):
        write(tmp_path / name)
    (tmp_path / "labels.csv").write_text("record,label,patient\nr1,A,P1\nr2,B,\nzz,A,P1\nyy,,\n")
    assert remarks(Folder(), tmp_path) == [
        "2 of 4 rows of labels.csv name records that are not here: zz, yy",
        "labels.csv has a row for 2 of 3 records; the others have no label",
        "labels.csv gives the patient of 1 of 3 records",
        "nothing tells patients apart: each of 2 records counts as a patient of its own; give --patient or labels.csv",
    ]


def test_a_header_that_cannot_be_read_says_nothing(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "a", "patient 1")
    (tmp_path / "b.hea").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "c.hea").write_bytes(b"# patient 1\n" * 500_000)  # beyond what a header may hold
    (tmp_path / "d.hea").mkdir()
    found: dict[str, Any] = patients(Folder(), tmp_path)
    assert found["a"] == "1" and found["b"] == "b" and found["c"] == "c"
