"""MIT-BIH: what is a record, a beat and a rhythm in it, and the published counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import wfdb

from ecgray.databases import BEATS, RHYTHMS, MitBih, Record, RecordRefused
from ecgray.databases.vocabulary import BEAT_SYMBOLS
from ecgray.databases.wfdb_annotations import read_annotations

# Of all 48 records, https://physionet.org/physiobank/database/html/mitdbdir/tables.htm.
PUBLISHED = {"N": 75052, "L": 8075, "R": 7259, "V": 7130, "/": 7028, "A": 2546}


def records(root: Path, lead: str = "MLII") -> tuple[list[Record], dict[str, str]]:
    read, refused = [], {}
    for reference in MitBih(lead=lead).find(root):
        try:
            read.append(MitBih(lead=lead).read(reference))
        except RecordRefused as reason:
            refused[reference.record] = str(reason)
    return read, refused


def slow_annotations(path: Path, samples: int) -> tuple[list[tuple[int, str]], list[list[int]]]:
    """Beats and rhythm zones of a record by a loop over what wfdb reads."""
    marks = wfdb.rdann(str(path), "atr")
    beats = [(int(s), BEAT_SYMBOLS[c]) for s, c in zip(marks.sample, marks.symbol, strict=True) if c in BEAT_SYMBOLS]
    zones: list[list[int]] = []
    for sample, symbol, text in zip(marks.sample, marks.symbol, marks.aux_note, strict=True):
        text = text.rstrip("\0")
        if symbol == "+" and text.startswith("("):
            name = {"(N": "normal", "(AFIB": "afib", "(AFL": "aflut"}.get(text, "other")
            if zones:
                zones[-1][1] = int(sample)
            zones.append([int(sample), samples, RHYTHMS.index(name)])
    return beats, [zone for zone in zones if zone[1] > zone[0]]


def check(root: Path) -> list[Record]:
    read, refused = records(root)
    assert refused == {
        name: reason for name, reason in [("102", "it has no lead MLII; its leads are V5, V2"),
                                          ("104", "it has no lead MLII; its leads are V5, V2")] if name in refused
    }  # fmt: skip
    for record in read:
        beats, zones = slow_annotations(root / record.id, record.signal.shape[1])
        assert record.beats.tolist() == [sample for sample, _ in beats]
        assert [BEATS[c] for c in record.beat_classes] == [name for _, name in beats]
        assert record.rhythms.tolist() == zones
        physical = wfdb.rdrecord(str(root / record.id), channel_names=["MLII"]).p_signal[:, 0]
        np.testing.assert_allclose((record.signal[0] - record.baseline[0]) / record.gain[0], physical, atol=1e-9)
        assert (record.leads, record.fs, record.annotated) == (("MLII",), 360, True)
    return read


def test_excerpts(mitdb_excerpts: Path) -> None:
    read = {record.id: record for record in check(mitdb_excerpts)}
    assert set(read) == {"100", "106", "108", "114", "201", "207", "219"}
    assert read["108"].source_symbols["+ (N"] == 1
    assert read["201"].source_symbols["+ (SVTA"] == read["201"].source_symbols["+ (AFIB"] == 1
    assert read["207"].source_symbols["!"] == 44
    assert read["100"].attributes == {"age": 69, "sex": "M"}
    assert [RHYTHMS[zone[2]] for zone in read["219"].rhythms] == ["afib", "normal", "afib"]


def test_another_lead(mitdb_excerpts: Path) -> None:
    read, refused = records(mitdb_excerpts, lead="V5")
    assert {record.id for record in read} == {"100", "102", "114"}
    assert refused["201"] == "it has no lead V5; its leads are MLII, V1"
    by_hand = wfdb.rdrecord(str(mitdb_excerpts / "114"), physical=False).d_signal
    np.testing.assert_array_equal(next(r for r in read if r.id == "114").signal[0], by_hand[:, 0])
    np.testing.assert_array_equal(next(r for r in records(mitdb_excerpts)[0] if r.id == "114").signal[0], by_hand[:, 1])


def test_201_and_202_are_one_patient(tmp_path: Path) -> None:
    for name in ("200", "201", "202", "203"):
        (tmp_path / f"{name}.hea").touch()
        (tmp_path / f"{name}.atr").touch()
    found = {reference.record: reference.patient for reference in MitBih().find(tmp_path)}
    assert found == {"200": "200", "201": "201", "202": "201", "203": "203"}


def test_stray_files_and_subfolders_are_no_records(tmp_path: Path, mitdb_excerpts: Path) -> None:
    for name in ("100.hea", "100.atr", "100.dat"):
        (tmp_path / name).write_bytes((mitdb_excerpts / name).read_bytes())
        (tmp_path / "x_mitdb").mkdir(exist_ok=True)
        (tmp_path / "x_mitdb" / f"x_{name}").write_bytes((mitdb_excerpts / name).read_bytes())
    for name in ("100.at_", "100.at-", "100.xws", "RECORDS"):
        (tmp_path / name).write_text("100\n200\n")
    assert [reference.record for reference in MitBih().find(tmp_path)] == ["100"]


def test_a_record_without_annotations_says_so(tmp_path: Path, mitdb_excerpts: Path) -> None:
    for name in ("100.hea", "100.dat", "100.atr", "106.hea", "106.dat"):
        (tmp_path / name).write_bytes((mitdb_excerpts / name).read_bytes())
    read = {record.id: record for record in records(tmp_path)[0]}
    assert (read["100"].annotated, read["106"].annotated) == (True, False)
    assert len(read["106"].beats) == len(read["106"].rhythms) == 0


def test_real_records_and_published_counts(real_data: Path) -> None:
    root = real_data / "mitdb"
    direct: Counter[str] = Counter()
    classes = np.zeros(len(BEATS), np.int64)
    for record in check(root):
        symbols = Counter(wfdb.rdann(str(root / record.id), "atr").symbol)
        assert {name: n for name, n in record.source_symbols.items() if not name.startswith("+ ")} == symbols
        direct.update(symbols)
        classes += np.bincount(record.beat_classes, minlength=len(BEATS))
    for name, count in zip(BEATS, classes, strict=True):
        assert count == sum(direct[symbol] for symbol, mapped in BEAT_SYMBOLS.items() if mapped == name)
    print(dict(zip(BEATS, classes.tolist(), strict=True)), dict(direct))


def test_published_counts_of_all_files(real_data: Path) -> None:
    files = sorted((real_data / "mitdb").glob("*.atr"))
    counts: Counter[str] = Counter()
    for file in files:
        counts.update(read_annotations(file).counts())
    beats = sum(counts[symbol] for symbol in BEAT_SYMBOLS) - counts["!"]  # flutter waves are not counted as beats
    if len(files) == 48:
        assert {symbol: counts[symbol] for symbol in PUBLISHED} == PUBLISHED
        assert beats == 109_494
    else:
        assert all(counts[symbol] <= total for symbol, total in PUBLISHED.items())
        assert beats < 109_494
