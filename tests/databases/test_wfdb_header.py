"""Headers: what real ones look like, against wfdb where it reads them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgray.databases.record import RecordRefused
from ecgray.databases.wfdb_header import Header, read_header


def header(folder: Path, text: str) -> Header:
    (folder / "r.hea").write_bytes(text.encode())
    return read_header(folder / "r")


@pytest.mark.parametrize(
    "first",
    [
        "A00001 1 300 9000 05:05:15 1/05/2000 \r",
        "A00001 1 300 9000 2014-05-08 05:05:15 \r",
        "A00001 1 300 9000",
        "A00001.mat 1 300/300(0) 9000   ",
    ],
)
def test_both_date_forms_line_ends_and_blanks(tmp_path: Path, first: str) -> None:
    got = header(tmp_path, f"# a comment\r\n\r\n{first}\nA00001.mat 16+24 1000/mV 16 0 -127 0 0 ECG \r\n#Age: 5\r\n")
    line = got.signals[0]
    assert (got.fs, got.frames, got.names, got.comments) == (300, 9000, ("ECG",), ("a comment", "Age: 5"))
    assert (line.file, line.format, line.byte_offset, line.gain, line.baseline) == ("A00001.mat", "16", 24, 1000, 0)


@pytest.mark.parametrize(
    ("line", "gain", "baseline", "name"),
    [
        ("r.dat 16 74.36482269503546(0)/mV 16 0 -5 1667 0 ecg", 74.36482269503546, 0, "ecg"),
        ("r.dat 212 200 11 1024 995 -22131 0 MLII", 200, 1024, "MLII"),
        ("r.dat 16x1+24 1000.0(0)/mV 16 0 1 2 0 lead  II ", 1000, 0, "lead  II"),
        ("r.dat 16 1e3(-7)/uV 16 5", 1e6, -7, "signal 0"),
        ("r.dat 16 2/V", 0.002, 0, "signal 0"),
        ("r.dat 16 2e-4(3)/nV 16 0 0 0 0 II", 200, 3, "II"),
        ("r.dat 16 200/mV MLII", 200, 0, "MLII"),
        ("r.dat 16 200/mV 12 1024 lead II, left arm", 200, 1024, "lead II, left arm"),
        ("r.dat 16 200 12 0 5 22 0 3", 200, 0, "3"),
        ("r.dat 16 200 12 zero", 200, 0, "zero"),
        ("r.dat 16 0", 200, 0, "signal 0"),
        ("r.dat 16", 200, 0, "signal 0"),
    ],
)
def test_signal_lines(tmp_path: Path, line: str, gain: float, baseline: int, name: str) -> None:
    got = header(tmp_path, f"r 1 250 100\n{line}\n").signals[0]
    assert (got.baseline, got.name) == (baseline, name)
    assert got.gain == pytest.approx(gain)


@pytest.mark.parametrize("line", ["200/mV MLII", "200 12 V5", "200(7)/mV 12 4 a b  c", "200 12 0 5 22 0 3", "200 aVF"])
def test_names_after_fields_left_out_as_wfdb_reads_them(tmp_path: Path, line: str) -> None:
    got = header(tmp_path, f"r 1 250 100\nr.dat 16 {line}\n")
    theirs = wfdb.rdheader(str(tmp_path / "r"))
    assert list(got.names) == theirs.sig_name
    assert [got.signals[0].baseline, got.signals[0].gain] == [theirs.baseline[0], theirs.adc_gain[0]]


@pytest.mark.parametrize(
    "unit", ["\u00b5V".encode(), "\u03bcV".encode(), "\u00b5V".encode("latin-1"), b"uV", b"\xce\x9cV"]
)
def test_microvolts_in_every_spelling(tmp_path: Path, unit: bytes) -> None:
    (tmp_path / "r.hea").write_bytes(b"r 1 250 100\nr.dat 16 0.2(5)/" + unit + b" 16 0 0 0 0 II\n")
    (line,) = read_header(tmp_path / "r").signals
    assert line.voltage and (line.baseline, line.name) == (5, "II")
    assert line.gain == pytest.approx(200)


def test_rate_and_length_may_be_left_out(tmp_path: Path) -> None:
    got = header(tmp_path, "r 1\nr.dat 16\n")
    assert (got.fs, got.frames) == (250, None)


@pytest.mark.parametrize(
    ("line", "fs", "frames"),
    [
        ("r 1", 250, None),
        ("r 1 360", 360, None),
        ("r 1 3.6e2 0", 360, None),
        ("r 1 360. 00 12:00:00 01/01/2000", 360, None),
        ("r 1 360/0 100", 360, 100),
        ("r 1 360/250(12.5) 100 12:00", 360, 100),
        ("r 1 .5/1(-3) 100", 0.5, 100),
    ],
)
def test_record_lines(tmp_path: Path, line: str, fs: float, frames: int | None) -> None:
    """Length 0 is as if missing; a counter, a time and a date change nothing."""
    got = header(tmp_path, f"{line}\nr.dat 16x4 200\n")
    assert (got.fs, got.frames, got.rate(0)) == (fs, frames, 4 * fs)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("16x0", {"samples_per_frame": 1}),
        ("16x3:2+24", {"samples_per_frame": 3, "skew": 2, "byte_offset": 24}),
        ("16:-2", {"skew": 0}),
        ("16", {"gain": 200, "baseline": 0, "initial": 0, "calibrated": False, "unit_given": False, "unit": "mv"}),
        ("16 0 0 0 0 0 0", {"gain": 200, "baseline": 0, "calibrated": False, "name": "signal 0"}),
        ("16 0(7)/uV", {"gain": 200_000, "baseline": 7, "calibrated": False, "unit": "uv", "unit_given": True}),
        ("16 -50/mV", {"gain": -50, "calibrated": True, "unit_given": True}),
        ("16 50(-3)/", {"gain": 50, "baseline": -3, "unit": "mv", "unit_given": False}),
        ("16 50 12 1024", {"baseline": 1024, "initial": 1024}),
        ("16 50(9) 12 1024", {"baseline": 9, "initial": 1024}),
        ("16 50 0 1024 -5", {"baseline": 1024, "initial": -5}),
        ("16 50 12 1024 995 0 0 ECG lead II", {"initial": 995, "name": "ECG lead II"}),
    ],
)
def test_fields_left_out_have_the_values_of_the_format(
    tmp_path: Path, fields: str, expected: dict[str, object]
) -> None:
    line = header(tmp_path, f"r 1 250 100\nr.dat {fields}\n").signals[0]
    assert {name: getattr(line, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("r 0 250 100\n", "the header says that the record has no signals"),
        ("r 2 250 100\n", "announces 2 signals and describes none"),
        ("r 99999999 250 100\nr.dat 16\n", "announces 99999999"),
        ("r\n", "first line is unreadable"),
        ("r one 250 100\nr.dat 16\n", "first line is unreadable"),
        (f"r {'9' * 5000} 250 100\nr.dat 16\n", "first line is unreadable"),
        ("r/3 1 250 100\nr_1 50\n", "multi-segment"),
        ("r 1 0 100\nr.dat 16\n", "sampling rate"),
        ("r 1 -250 100\nr.dat 16\n", "sampling rate"),
        ("r 1 0.5 100\nr.dat 16\n", "sampling rate must lie from 1 to 1e\\+06 Hz, the header says 0.5"),
        ("r 1 nan 100\nr.dat 16\n", "sampling rate"),
        ("r 1 1e400 100\nr.dat 16\n", "sampling rate"),
        ("r 1 250 -4\nr.dat 16\n", "number of samples must not be negative, the header says -4"),
        ("r 1 0.1 100\nr.dat 16x9\n", r"says 0.9 \(9 samples in each of 0.1 frames per second\)"),
        ("r 1 250 99999999999999\nr.dat 16\n", "limit"),
        (f"r 1 250 {'9' * 4000}\nr.dat 16\n", "first line is unreadable"),
        ("r 1 250 100\n" + "\x00" * 4000 + "\n", "signal 0 is unreadable"),
        ("r 1 250 100\nr.dat sixteen\n", "signal 0 is unreadable"),
        ("r 1 250 100\nr.dat\n", "signal 0 is unreadable"),
        ("r 1 250 100\nr.dat 16 nan\n", "signal 0 is unreadable"),
        ("r 1 250 100\nr.dat 16 200 12 0.5 0\n", "signal 0 is unreadable"),
        ("r 1 250 100\nr.dat 16 1e-30/mV\n", "gain of signal 0 is absurd"),
        ("r 1 250 100\nr.dat 16 1e300/mV\n", "gain of signal 0 is absurd"),
        ("r 1 250 100\nr.dat 16 200(99999999999)/mV\n", "baseline of signal 0 is absurd"),
        ("r 1 250 100\nr.dat 8 200 12 0 99999999999\n", "initial value of signal 0 is absurd: 99999999999"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(RecordRefused, match=reason) as refused:
        header(tmp_path, text)
    assert len(str(refused.value)) < 200


def test_a_missing_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordRefused, match="missing"):
        read_header(tmp_path / "r")
    os.mkfifo(tmp_path / "pipe.hea")  # reading it would wait for ever
    (tmp_path / "folder.hea").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(RecordRefused, match="is not a file"):
            read_header(tmp_path / name)


def compare(path: Path) -> None:
    ours, theirs = read_header(path), wfdb.rdheader(str(path))
    assert (ours.fs, ours.frames, list(ours.names)) == (theirs.fs, theirs.sig_len, theirs.sig_name)
    np.testing.assert_allclose([line.gain for line in ours.signals], theirs.adc_gain)
    assert [line.baseline for line in ours.signals] == theirs.baseline
    assert [line.format for line in ours.signals] == theirs.fmt
    assert [line.byte_offset for line in ours.signals] == [offset or 0 for offset in theirs.byte_offset]


def test_excerpts_as_wfdb_reads_them(mitdb_excerpts: Path, cinc2017_excerpts: Path) -> None:
    for file in [*mitdb_excerpts.glob("*.hea"), *cinc2017_excerpts.rglob("*.hea")]:
        compare(file.with_suffix(""))


def test_real_headers_as_wfdb_reads_them(real_data: Path) -> None:
    files = [*real_data.glob("mitdb/*.hea"), *real_data.rglob("icentia11k/**/*.hea")]
    for file in [*files, *sorted(real_data.glob("cinc2017/training2017/*.hea"))[::200]]:
        compare(file.with_suffix(""))


def test_copies_with_iso_dates_say_the_same(real_data: Path) -> None:
    files = sorted(real_data.glob("cinc2017/iso_date_headers/*.hea"))
    assert len(files) == 12
    for file in files:
        with pytest.raises(ValueError):
            wfdb.rdheader(str(file.with_suffix("")))
        other = real_data / "cinc2017" / "training2017" / file.name
        if other.exists():
            assert read_header(file.with_suffix("")) == read_header(other.with_suffix(""))
