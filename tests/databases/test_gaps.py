"""Samples that are missing: a few are bridged, more are a gap, and the rest of the record is used."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from ecgray.databases import Folder
from ecgray.databases.gaps import between, enough_left, moved, runs, union
from ecgray.databases.record import Record, RecordRefused, Reference

Writer = Callable[..., Path]

MISSING = [("16", -(2**15)), ("212", -(2**11)), ("24", -(2**23)), ("32", -(2**31)), ("80", -(2**7)), ("516", -(2**15))]
intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6).map(
    lambda pairs: np.array([(start, start + length) for start, length in pairs], np.int64).reshape(-1, 2)
)


def mask(gaps: npt.NDArray[np.int64], samples: int = 70) -> npt.NDArray[np.bool_]:
    covered = np.zeros(samples, bool)
    for start, end in gaps.tolist():
        covered[start:end] = True
    return covered


@given(intervals, intervals)
def test_intervals_beside_a_mask(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> None:
    both = union([one, other])
    np.testing.assert_array_equal(mask(both), mask(one) | mask(other))
    np.testing.assert_array_equal(both, runs(mask(both)))
    np.testing.assert_array_equal(between(both, 70), runs(~mask(both)))


@given(intervals, st.fractions(Fraction(1, 5), 5, max_denominator=7))
def test_moved_gaps_cover_what_they_covered(gaps: npt.NDArray[np.int64], ratio: Fraction) -> None:
    gaps = union([gaps])
    samples = int(70 * ratio) + 1
    there = moved(gaps, ratio, samples)
    covered = mask(there, samples)
    for start, end in gaps.tolist():
        inside = [n for n in range(samples) if start * ratio <= n < end * ratio]
        assert covered[inside].all()
    assert covered.sum() <= sum(float((end - start) * ratio) + 2 for start, end in gaps.tolist())


@pytest.mark.parametrize(
    ("lost_s", "of_s", "enough"), [(0, 1, True), (290, 300, True), (291, 300, False), (4, 9, True), (5, 9, False)]
)
def test_what_is_enough(lost_s: int, of_s: int, enough: bool) -> None:
    gaps = np.array([[0, lost_s * 250]]) if lost_s else np.empty((0, 2), np.int64)
    assert enough_left(gaps, of_s * 250, 250.0) is enough


def read(path: Path, *leads: str) -> Record:
    return Folder(lead=leads).read(Reference(record=path.name, patient=path.name, path=path))


@pytest.mark.parametrize(("fmt", "missing"), MISSING)
def test_long_runs_are_gaps_and_short_ones_bridged(
    tmp_path: Path, write_record: Writer, fmt: str, missing: int
) -> None:
    digital = (np.arange(5000) % 100)[:, None]
    for start, end in ((0, 60), (1000, 1050), (2000, 2051), (3000, 3700), (4999, 5000)):
        digital[start:end] = missing
    got = read(write_record(tmp_path / "r", digital, fmt=fmt))
    assert got.gaps.tolist() == [[0, 60], [2000, 2051], [3000, 3700]]  # 50 samples are 0.2 s
    assert got.attributes["missing_samples"] == 60 + 50 + 51 + 700 + 1
    kept = digital[:, 0] != missing
    np.testing.assert_array_equal(got.signal[0, kept], digital[kept, 0])
    assert got.signal.min() >= 0 and got.signal.max() <= 99


def test_a_gap_of_one_lead_is_one_of_the_record(tmp_path: Path, write_record: Writer) -> None:
    digital = np.random.default_rng(0).integers(-99, 99, (5000, 3))
    digital[100:300, 0] = digital[250:400, 2] = digital[4000:4100, 1] = -32768
    path = write_record(tmp_path / "r", digital, leads=["I", "II", "III"])
    assert read(path).gaps.tolist() == [[100, 400], [4000, 4100]]
    assert read(path, "III", "I").gaps.tolist() == [[100, 400]]
    assert read(path, "II").gaps.tolist() == [[4000, 4100]]


def test_gaps_of_a_slower_lead_are_moved_to_the_rate_of_the_record(tmp_path: Path) -> None:
    fast = np.random.default_rng(0).integers(-99, 99, (20, 250))
    slow = np.random.default_rng(1).integers(-99, 99, (20, 50))
    slow[3, 7:] = slow[4, :9] = -32768
    np.concatenate([fast, slow], axis=1).astype("<i2").tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text("r 2 1 20\nr.dat 16x250 200/mV 9 0 0 0 0 II\nr.dat 16x50 200/mV 9 0 0 0 0 V1\n")
    got = read(tmp_path / "r")
    assert got.gaps.tolist() == [[785, 1045]]
    assert abs(got.signal[1].astype(int)).max() < 250


@pytest.mark.parametrize(("fmt", "missing"), MISSING)
def test_too_little_left_is_refused_with_the_lead(tmp_path: Path, write_record: Writer, fmt: str, missing: int) -> None:
    digital = np.tile(np.arange(1000) % 100, (2, 1)).T
    digital[100:601, 1] = missing
    path = write_record(tmp_path / "some", digital, fmt=fmt, leads=["I", "II"])
    with pytest.raises(
        RecordRefused, match=r"50\.1% of lead II is missing \(NaN\); outside the gaps there must be 10 s"
    ):
        read(path)
    assert read(path, "I").gaps.shape == (0, 2)
    digital[100:600:2, 0] = missing  # every second sample of the half
    digital[100:601, 1] = 5
    with pytest.raises(RecordRefused, match=r"25\.0% of lead I is missing \(NaN\), the limit is 10%"):
        read(write_record(tmp_path / "every", digital, fmt=fmt, leads=["I", "II"]))
    digital[:, 1] = missing
    digital[:, 0] = np.arange(1000) % 90
    path = write_record(tmp_path / "all", digital, fmt=fmt, leads=["I", "II"])
    with pytest.raises(RecordRefused, match="every sample of lead II is missing"):
        read(path)
    assert read(path, "I").signal.shape == (1, 1000)


def test_an_electrode_that_was_off(real_data: Path) -> None:
    folder = real_data / "field" / "11_electrode_off"
    if not folder.is_dir():
        pytest.skip("the situations are not on this machine")
    for name, seconds in (("off00", 0), ("off50", 50), ("off70", 70)):
        got = read(folder / name)
        assert np.diff(got.gaps).sum() / got.fs == seconds
        assert got.signal.shape == (1, 150_000)
