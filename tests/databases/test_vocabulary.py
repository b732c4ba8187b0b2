"""What rhythm names and beat marks of the MIT-BIH family mean, and what is said of those that nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import wfdb

from ecgray.databases import BEATS, RHYTHMS, Folder, MitBih, Record
from ecgray.databases.vocabulary import EVENTS, RHYTHM_NAMES, misunderstood, rhythm_name
from ecgray.errors import EcgrayError
from ecgray.shards.ingest import ingest

Writer = Callable[..., Path]
Wave = npt.NDArray[np.int64]

# The tables of rhythms of PhysioNet's pages on mitdb, afdb, vfdb, ltafdb and cudb.
NAMES = {
    "normal": "(N (NSR (SR",
    "afib": "(AFIB (AF",
    "aflut": "(AFL",
    "noise": "(NOISE",
    "other": "(J (NOD (SVTA (VT (AB (B (T (IVR (SBR (BI (BII (HGEA (PM (P (PREX (VER (VF (VFIB (VFL (ASYS (SAB",
}


def read_all(database: Any, root: Path) -> dict[str, Record]:
    return {reference.record: database.read(reference) for reference in database.find(root)}


@pytest.mark.parametrize(("rhythm", "names"), NAMES.items())
def test_every_published_name_is_known(
    tmp_path: Path, write_record: Writer, wave: Wave, rhythm: str, names: str
) -> None:
    for number, name in enumerate(names.split()):
        write_record(tmp_path / f"r{number}", wave, marks=[(100, "+", name), (500, "N", "")])
    records = read_all(Folder(), tmp_path)
    assert len(records) == len(names.split())
    for record in records.values():
        assert record.rhythms.tolist() == [[100, 1000, RHYTHMS.index(rhythm)]]
        assert misunderstood(record.source_symbols) == []


@pytest.mark.parametrize("text", ["(AFIB", "(afib", "( AFIB ", "(AFIB\0\0", "AFIB", "afib\0", " (AFIB", "\x01(AFib\0 "])
def test_parenthesis_blanks_nulls_and_case_do_not_matter(
    tmp_path: Path, write_record: Writer, wave: Wave, text: str
) -> None:
    write_record(tmp_path / "r", wave, marks=[(10, "+", "(N"), (100, "+", text), (300, "+", "(NSR")])
    (record,) = read_all(Folder(), tmp_path).values()
    normal, afib = RHYTHMS.index("normal"), RHYTHMS.index("afib")
    assert record.rhythms.tolist() == [[10, 100, normal], [100, 300, afib], [300, 1000, normal]]
    assert rhythm_name(text) == "AFIB"


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_a_pause_or_a_missed_beat_ends_no_rhythm(tmp_path: Path, write_record: Writer, wave: Wave, event: str) -> None:
    write_record(tmp_path / "r", wave, marks=[(10, "+", "(AFIB"), (100, "+", event)])
    (record,) = read_all(Folder(), tmp_path).values()
    assert record.rhythms.tolist() == [[10, 1000, RHYTHMS.index("afib")]]
    assert misunderstood(record.source_symbols) == []


def test_names_are_in_one_table_and_in_the_vocabulary() -> None:
    assert set(RHYTHM_NAMES.values()) <= set(RHYTHMS)
    assert not EVENTS & RHYTHM_NAMES.keys()
    assert all(rhythm_name(name) == name for name in RHYTHM_NAMES)


def test_what_nobody_knows_is_told_the_most_frequent_first() -> None:
    counts = {"N": 8, "+": 40, "+ (XYZ": 12, "+ (N": 3, "+ (QQ\x07": 12, "+ )": 2, "+ ": 1, "+ Foo": 1, "type 45": 7}
    assert misunderstood(counts) == [
        "2 rhythm names were not understood and count as other: (QQ\\x07 12, (XYZ 12",
        "1 text of a rhythm mark was not understood and counts as no rhythm: Foo 1",
        "1 annotation type was not understood and counts as no beat: type 45 7",
    ]
    many = misunderstood({f"+ (R{number}": 1 for number in range(15)})
    assert len(many) == 1 and many[0].startswith("15 rhythm names") and many[0].endswith(" and 5 more")
    assert misunderstood({"+ (N": 1, "V": 2, "~": 1}) == []


def test_an_ingest_tells_them(
    tmp_path: Path, write_record: Writer, wave: Wave, caplog: pytest.LogCaptureFixture
) -> None:
    write_record(tmp_path / "db" / "a", wave, marks=[(10, "+", "(XYZ"), (100, "N", ""), (200, "+", "(N")])
    write_record(tmp_path / "db" / "b", wave, marks=[(10, "+", "(XYZ"), (100, "N", ""), (200, "+", "(UVW")])
    ingest(Folder(), tmp_path / "db", tmp_path / "out", workers=0, progress=False)
    assert "2 rhythm names were not understood and count as other: (XYZ 2, (UVW 1" in caplog.messages


@pytest.fixture
def afdb(tmp_path: Path, write_record: Writer, wave: Wave) -> Path:
    """The layout of afdb: rhythms in .atr, beats of a detector in .qrs, and a record by name without signals."""
    for name in ("04015", "04043"):
        write_record(tmp_path / name, wave, leads=["ECG1"], marks=[(3, "+", "(N"), (400, "+", "(AFIB")])
        wfdb.wrann(name, "qrs", np.array([100, 300, 500]), symbol=["N"] * 3, write_dir=str(tmp_path))
    (tmp_path / "00735.hea").write_text("00735 0 250 0\n")
    return tmp_path


def kinds(record: Record) -> list[str]:
    return [BEATS[kind] for kind in record.beat_classes]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "undefined"),
        ({"beats_are": "undefined"}, "undefined"),
        ({"beats_are": "normal"}, "normal"),
        ({"beats_are": "marked"}, "normal"),
    ],
)
def test_rhythms_of_one_file_and_beats_of_another(afdb: Path, options: dict[str, Any], kind: str) -> None:
    for database in (Folder(beats_annotator="qrs", **options), MitBih(lead="ECG1", beats_annotator="qrs", **options)):
        references = [reference for reference in database.find(afdb) if reference.record != "00735"]
        assert len(references) == 2
        for reference in references:
            record = database.read(reference)
            assert record.beats.tolist() == [100, 300, 500] and record.annotated
            assert kinds(record) == [kind] * 3
            assert record.rhythms.tolist() == [[3, 400, RHYTHMS.index("normal")], [400, 1000, RHYTHMS.index("afib")]]
            assert record.source_symbols == {"N": 3, "+": 2, "+ (N": 1, "+ (AFIB": 1}
            assert not record.notes


def test_a_detector_says_where_beats_are_and_not_of_which_kind(
    tmp_path: Path, write_record: Writer, wave: Wave
) -> None:
    write_record(tmp_path / "r", wave, marks=[(5, "N", ""), (50, "V", "")])
    for suffix in ("qrs", "wqrs", "ecg", "ari"):
        wfdb.wrann("r", suffix, np.array([100, 300]), symbol=["N", "V"], write_dir=str(tmp_path))
    found = {
        suffix: kinds(read_all(Folder(annotator=suffix), tmp_path)["r"])
        for suffix in ("qrs", "wqrs", "ecg", "ari", "atr")
    }
    assert found["qrs"] == found["wqrs"] == found["ecg"] == ["undefined", "undefined"]
    assert found["ari"] == found["atr"] == ["normal", "pvc"]
    assert kinds(read_all(Folder(annotator="ecg", beats_are="marked"), tmp_path)["r"]) == ["normal", "pvc"]


def test_minutes_of_apnea_are_no_beats(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    write_record(tmp_path / "a01", wave)
    for suffix in ("apn", "qrs"):
        wfdb.wrann("a01", suffix, np.array([100, 300]), symbol=["N", "A"], write_dir=str(tmp_path))
    record = read_all(Folder(annotator="apn"), tmp_path)["a01"]
    assert not len(record.beats) and not record.annotated and record.notes == {"beats_elsewhere": "qrs"}
    record = read_all(Folder(annotator="apn", beats_annotator="qrs"), tmp_path)["a01"]
    assert kinds(record) == ["undefined", "undefined"] and not record.notes


def test_an_annotator_of_beats_that_is_not_there_is_refused(afdb: Path) -> None:
    for kind in (Folder, MitBih):
        with pytest.raises(EcgrayError, match=r"has no \.wqrs; check it"):
            kind(beats_annotator="wqrs").find(afdb)
        with pytest.raises(EcgrayError, match=r"suffix of annotation files, as atr or qrs, got '\.\./x'"):
            kind(beats_annotator="../x")
        with pytest.raises(EcgrayError, match="beats_are must be a known name, got 'best'"):
            kind(beats_are="best")


def test_beats_that_lie_beside_are_told(afdb: Path, tmp_path_factory: pytest.TempPathFactory, caplog: Any) -> None:
    ingest(Folder(), afdb, tmp_path_factory.mktemp("out") / "a", workers=0, progress=False)
    told = "2 of 2 records mark no beat in the file that was read, but in one beside it (--beats-annotator takes it)"
    assert any(line.startswith(told) for line in caplog.messages)


def test_the_reason_of_most_records_is_told_and_its_advice_works(
    afdb: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out")
    with pytest.raises(EcgrayError) as error:
        ingest(MitBih(), afdb, out / "a", workers=0, progress=False)
    assert "got 3 refused: 2 with 'it has no lead MLII; its leads are ECG1' (as 04015), 1 with " in str(error.value)
    assert str(error.value).endswith("; take a lead that they have, as --lead ECG1.")
    manifest = ingest(MitBih(lead="ECG1"), afdb, out / "a", workers=0, progress=False)
    assert (manifest.records, manifest.refused) == (2, 1)


def test_field_beats_in_qrs(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "field" / "08_beats_in_qrs"
    if not root.is_dir():
        pytest.skip("not among the real recordings")
    with pytest.raises(EcgrayError, match=r"8 with 'it has no lead MLII; its leads are ECG1, ECG2'.*--lead ECG1\.$"):
        ingest(MitBih(), root, tmp_path / "none", workers=0, progress=False)
    for options, kind in (({}, "undefined"), ({"beats_are": "normal"}, "normal")):
        database = MitBih(lead="ECG1", beats_annotator="qrs", **options)  # type: ignore[arg-type]
        manifest = ingest(database, root, tmp_path / kind, workers=0, progress=False)
        assert manifest.records == 8
        assert {name: count for name, count in manifest.beats.items() if count} == {kind: 1200}
        assert {name for name, seconds in manifest.rhythm_seconds.items() if seconds} == {
            "normal",
            "afib",
            "aflut",
            "other",
        }
