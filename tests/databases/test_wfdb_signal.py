"""Signals against wfdb in every format, and what happens to values that are missing or do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
import wfdb
from hypothesis import given

from ecgray.databases.lead_values import to_int16
from ecgray.databases.record import RecordRefused
from ecgray.databases.wfdb_formats import decode_212
from ecgray.databases.wfdb_header import read_header
from ecgray.databases.wfdb_signal import Signal, read_signal

Writer = Callable[..., Path]


def read(path: Path, leads: list[int] | None = None) -> Signal:
    header = read_header(path)
    return read_signal(path, header, leads if leads is not None else range(len(header.signals)))


def assert_same_as_wfdb(path: Path) -> None:
    header = read_header(path)
    theirs = wfdb.rdrecord(str(path), physical=False)
    for leads in [range(len(header.signals)), *([number] for number in range(len(header.signals)))]:
        np.testing.assert_array_equal(read_signal(path, header, leads).values.T, theirs.d_signal[:, list(leads)])


def test_excerpts(mitdb_excerpts: Path, cinc2017_excerpts: Path) -> None:
    for file in [*mitdb_excerpts.glob("*.hea"), *cinc2017_excerpts.rglob("*.hea")]:
        assert_same_as_wfdb(file.with_suffix(""))


def test_real_records(real_data: Path) -> None:
    stride = 1 if "ECGRAY_LONG" in os.environ else 100
    files = [*real_data.glob("mitdb/*.hea"), *real_data.glob("icentia11k/*/*/*.hea")]
    for file in [*files, *sorted(real_data.glob("cinc2017/training2017/*.hea"))[::stride]]:
        assert_same_as_wfdb(file.with_suffix(""))


@given(hnp.arrays(np.uint8, st.integers(1, 40).map(lambda n: 3 * n)))
def test_format_212_by_a_slow_loop(packed: npt.NDArray[np.uint8]) -> None:
    expected = []
    for first, shared, second in packed.reshape(-1, 3).tolist():
        for value in (first + 256 * (shared & 15), second + 256 * (shared >> 4)):
            expected.append(value - 4096 if value > 2047 else value)
    assert decode_212(packed).tolist() == expected


@pytest.mark.parametrize(("fmt", "limit"), [("16", 32767), ("212", 2047), ("80", 127), ("24", 30000), ("32", 30000)])
@pytest.mark.parametrize("leads", [1, 2, 3])
@pytest.mark.parametrize("samples", [1001, 1002])
def test_formats_that_wfdb_writes(
    tmp_path: Path, write_record: Writer, fmt: str, limit: int, leads: int, samples: int
) -> None:
    digital = np.random.default_rng(0).integers(-limit, limit + 1, (samples, leads))
    path = write_record(tmp_path / "r", digital, fmt=fmt)
    assert_same_as_wfdb(path)
    got = read(path)
    np.testing.assert_array_equal(got.values.T, digital)
    assert (got.missing, got.requantisation_uv) == (0, 0)


@pytest.mark.parametrize(
    ("fmt", "missing"), [("61", -(2**15)), ("160", -(2**15)), ("310", -512), ("311", -512), ("8", None)]
)
def test_formats_that_wfdb_only_reads(tmp_path: Path, fmt: str, missing: int | None) -> None:
    content = np.random.default_rng(0).integers(0, 256, 8000).astype(np.uint8)
    if fmt == "311":
        content[3::4] &= 0x3F  # the two spare bits, which wfdb.rdrecord takes along into every third sample
    content.tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text(f"r 2 250 1500\nr.dat {fmt} 200 12 0 5\nr.dat {fmt} 200 12 0 -9\n")
    theirs = wfdb.rdrecord(str(tmp_path / "r"), physical=False).d_signal.T
    ours = read(tmp_path / "r")
    known = theirs != missing
    np.testing.assert_array_equal(ours.values[known], theirs[known])
    assert ours.missing == (~known).sum()


@pytest.mark.parametrize("fmt", ["508", "516", "524"])
def test_compressed_formats(tmp_path: Path, write_record: Writer, fmt: str) -> None:
    digital = np.random.default_rng(0).integers(-100, 100, (3000, 2))
    np.testing.assert_array_equal(read(write_record(tmp_path / "r", digital, fmt=fmt)).values.T, digital)


def test_leads_in_files_of_their_own_and_in_formats_of_their_own(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).integers(-2000, 2000, (500, 3))
    wave[:, 0].astype("<i2").tofile(tmp_path / "a.dat")
    wave[:, 1:].astype("<i2").tofile(tmp_path / "bc.dat")
    (tmp_path / "r.hea").write_text("r 3 250 500\na.dat 16 200 12 0 0 0 0 a\nbc.dat 16 200\nbc.dat 16 200\n")
    assert_same_as_wfdb(tmp_path / "r")
    np.testing.assert_array_equal(read(tmp_path / "r", [2, 0]).values.T, wave[:, [2, 0]])


def test_length_from_the_file_where_the_header_leaves_it_out(tmp_path: Path) -> None:
    np.arange(500, dtype="<i2").tofile(tmp_path / "r.dat")
    for length in ("", " 0"):
        (tmp_path / "r.hea").write_text(f"r 2 250{length}\nr.dat 16 200\nr.dat 16 200\n")
        assert read(tmp_path / "r").values.shape == (2, 250)


def test_wide_values_are_shifted_exactly_where_that_suffices(tmp_path: Path, write_record: Writer) -> None:
    digital = np.random.default_rng(0).integers(1_000_000, 1_060_000, (1000, 1))
    got = read(write_record(tmp_path / "r", digital, fmt="24", baseline=1_000_000))
    assert got.requantisation_uv == 0
    np.testing.assert_array_equal(got.values[0] - got.baseline[0], digital[:, 0] - 1_000_000)


@pytest.mark.parametrize(("fmt", "reach"), [("24", 8_000_000), ("32", 2_000_000_000)])
def test_wider_ones_are_requantised_within_the_stated_error(
    tmp_path: Path, write_record: Writer, fmt: str, reach: int
) -> None:
    digital = np.random.default_rng(0).integers(-reach, reach, (5000, 1))
    got = read(write_record(tmp_path / "r", digital, fmt=fmt, gain=1e6, baseline=77))
    before = (digital[:, 0] - 77) / 1e6
    after = (got.values[0] - got.baseline[0]) / got.gain[0]
    worst_uv = np.abs(before - after).max() * 1000
    assert worst_uv == pytest.approx(got.requantisation_uv, rel=1e-6)
    assert worst_uv <= 0.5001 * 2 * reach / 65534 / 1e6 * 1000
    assert got.values.min() >= -32767


@given(hnp.arrays(np.int64, st.integers(2, 20), elements=st.integers(-(2**31), 2**31 - 1)), st.floats(0.5, 1e6))
def test_to_int16_keeps_millivolts(digital: npt.NDArray[np.int64], gain: float) -> None:
    values, new_gain, new_baseline, error_uv = to_int16(digital, int(digital.min()), int(digital.max()), gain, 5.0)
    difference = np.abs((digital - 5.0) / gain - (values.astype(float) - new_baseline) / new_gain) * 1000
    assert difference.max() <= error_uv + 1e-6 * max(1.0, np.abs(digital / gain).max())
    assert np.abs(values.astype(int)).max() <= 32767


@pytest.mark.parametrize(("fmt", "missing"), [("16", -32768), ("212", -2048), ("24", -(2**23)), ("80", -128)])
def test_a_few_missing_samples_are_interpolated(tmp_path: Path, write_record: Writer, fmt: str, missing: int) -> None:
    digital = np.tile(np.arange(100), 5)[:, None]
    digital[[0, 40, 41, 42, 499]] = missing
    got = read(write_record(tmp_path / "r", digital, fmt=fmt))
    assert got.missing == 5
    assert got.values[0, [0, 40, 41, 42, 499]].tolist() == [1, 40, 41, 42, 98]
    np.testing.assert_array_equal(
        np.delete(got.values[0], [0, 40, 41, 42, 499]), np.delete(digital, [0, 40, 41, 42, 499])
    )


def test_constant_signals_are_refused_but_not_one_flat_lead(tmp_path: Path, write_record: Writer) -> None:
    with pytest.raises(RecordRefused, match="constant"):
        read(write_record(tmp_path / "flat", np.full((500, 2), [3, 7])))
    digital = np.stack([np.full(500, 3), np.arange(500)], axis=1)
    assert read(write_record(tmp_path / "one", digital)).values.shape == (2, 500)
    with pytest.raises(RecordRefused, match="constant"):
        read(tmp_path / "one", [0])


def test_reading_a_native_format_imports_no_wfdb(mitdb_excerpts: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ecgray.databases import MitBih;"
        f"db = MitBih(); db.read(db.find(Path({str(mitdb_excerpts)!r}))[0]);"
        "sys.exit('wfdb' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
