"""Several samples of a signal in a frame, skew and offset: beside a slow loop after the format's own description, and
beside what wfdb gives sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import wfdb
from scipy.signal import resample_poly

from ecgray.databases import Folder
from ecgray.databases.record import Record, RecordRefused, Reference
from ecgray.databases.wfdb_header import read_header
from ecgray.databases.wfdb_signal import Signal, read_signal

Writer = Callable[..., Path]
BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2, "212": 1.5, "310": 4 / 3, "311": 4 / 3}
MISSING = {"16": -(2**15), "24": -(2**23), "32": -(2**31), "61": -(2**15), "80": -(2**7), "160": -(2**15)}
MISSING |= {"212": -(2**11), "310": -(2**9), "311": -(2**9)}


def read(path: Path, leads: Sequence[int]) -> Signal:
    return read_signal(path, read_header(path), leads)


def record(path: Path, *leads: str) -> Record:
    return Folder(lead=leads).read(Reference(record=path.name, patient=path.name, path=path))


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def slow_samples(content: bytes, fmt: str, count: int) -> list[int]:
    """One sample after another, as https://physionet.org/physiotools/wag/signal-5.htm has them."""
    data = content + bytes(8)
    found = []
    for n in range(count):
        if fmt == "212":
            at = n // 2 * 3
            bits = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            word = data[at] | (data[at + 1] & 15) << 8 if n % 2 == 0 else bits >> 16 | (data[at + 1] >> 4) << 8
            found.append(signed(word, 12))
        elif fmt in ("310", "311"):
            at = n // 3 * 4
            first, second = data[at] | data[at + 1] << 8, data[at + 2] | data[at + 3] << 8
            if fmt == "311":
                found.append(signed((first | second << 16) >> 10 * (n % 3), 10))
            else:
                third = (first >> 11) | (second >> 11) << 5
                found.append(signed((first >> 1, second >> 1, third)[n % 3], 10))
        else:
            size = int(BYTES[fmt])
            word = data[size * n : size * (n + 1)]
            value = int.from_bytes(word, "big" if fmt == "61" else "little", signed=fmt not in ("80", "160"))
            found.append(value - {"80": 128, "160": 32768}.get(fmt, 0))
    return found


def slow_signals(content: bytes, fmt: str, widths: Sequence[int], frames: int) -> list[list[int]]:
    flat = slow_samples(content, fmt, frames * sum(widths))
    signals: list[list[int]] = [[] for _ in widths]
    place = 0
    for _ in range(frames):
        for signal, width in zip(signals, widths, strict=True):
            signal += flat[place : place + width]
            place += width
    if fmt == "8":
        return [np.cumsum(signal).tolist() for signal in signals]
    return signals


def written(folder: Path, fmt: str, widths: Sequence[int], frames: int, modifiers: Sequence[str]) -> bytes:
    """r.dat of random bytes behind 24 others, and its header; the signals' bytes."""
    size = int(np.ceil(frames * sum(widths) * BYTES[fmt]))
    content = np.random.default_rng(frames).integers(0, 256, size).astype(np.uint8).tobytes()
    (folder / "r.dat").write_bytes(bytes(24) + content)
    lines = [f"r.dat {fmt}x{w}{more}+24 200 12 0 0" for w, more in zip(widths, modifiers, strict=True)]
    (folder / "r.hea").write_text("\n".join([f"r {len(widths)} 100 {frames}", *lines, ""]))
    return content


@pytest.mark.parametrize("fmt", BYTES)
@pytest.mark.parametrize("widths", [(3, 1), (1, 4, 2), (5,), (1, 1), (2, 2, 2)])
@pytest.mark.parametrize("frames", [400, 403])
def test_every_format_sample_by_sample(tmp_path: Path, fmt: str, widths: tuple[int, ...], frames: int) -> None:
    content = written(tmp_path, fmt, widths, frames, [""] * len(widths))
    for number, expected in enumerate(slow_signals(content, fmt, widths, frames)):
        got = read(tmp_path / "r", [number])
        assert got.fs == 100 * widths[number]
        there = np.array(expected) != MISSING.get(fmt)
        mv = (got.values[0] - got.baseline[0]) / got.gain[0]
        tolerance = got.requantisation_uv / 1000 * 1.001 + 1e-9
        np.testing.assert_allclose(mv[there], np.array(expected)[there] / 200, rtol=1e-12, atol=tolerance)
        assert got.missing == (~there).sum()


def test_more_frames_than_are_decoded_at_a_time(tmp_path: Path) -> None:
    for fmt in ("16", "212", "310"):
        content = written(tmp_path, fmt, (7, 2, 4), 60_001, ["", "", ""])
        flat = np.array(slow_samples(content[:3000], fmt, 1300)).reshape(100, 13)
        got = read(tmp_path / "r", [2, 0])
        assert got.values.shape == (2, 7 * 60_001)
        second = flat[:, 7:9].reshape(-1)
        known = second != MISSING[fmt]
        np.testing.assert_array_equal(read(tmp_path / "r", [1]).values[0, :200][known], second[known])
        theirs = wfdb.rdrecord(str(tmp_path / "r"), physical=False, smooth_frames=False).e_d_signal[0]
        known = theirs != MISSING[fmt]
        np.testing.assert_array_equal(got.values[1][known], theirs[known])


@pytest.mark.parametrize("fmt", ["16", "32", "212", "80", "160"])
def test_as_wfdb_without_smoothing(tmp_path: Path, fmt: str) -> None:
    written(tmp_path, fmt, (3, 1, 2), 500, ["", "", ""])
    theirs = wfdb.rdrecord(str(tmp_path / "r"), physical=False, smooth_frames=False)
    for number, samples in enumerate(theirs.e_d_signal):
        got, known = read(tmp_path / "r", [number]), samples != MISSING[fmt]
        ours = (got.values[0] - got.baseline[0]) / got.gain[0] * 200
        tolerance = got.requantisation_uv / 1000 * 200 * 1.001 + 1e-9
        np.testing.assert_allclose(ours[known], samples[known], rtol=1e-12, atol=tolerance)


@pytest.mark.parametrize(("fields", "first"), [("12 40 -7", -7), ("12 40", 40), ("12", 0), ("0 40 0 0 0 ECG", 0)])
def test_differences_start_from_the_initial_value_else_from_the_adc_zero(
    tmp_path: Path, fields: str, first: int
) -> None:
    steps = np.random.default_rng(0).integers(-100, 101, (300, 3)).astype(np.int8)
    steps.tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text(f"r 2 250 300\nr.dat 8x2 200 {fields}\nr.dat 8 200 {fields}\n")
    values = np.cumsum(steps[:, :2].reshape(-1), dtype=int)
    np.testing.assert_array_equal(read(tmp_path / "r", [0]).values[0], first + values)
    np.testing.assert_array_equal(read(tmp_path / "r", [1]).values[0], first + np.cumsum(steps[:, 2], dtype=int))


@pytest.mark.parametrize(("fmt", "skews"), [("16", (0, 7)), ("212", (4, 0)), ("8", (0, 9)), ("24", (3, 8))])
def test_skew_counts_samples_of_its_signal(tmp_path: Path, fmt: str, skews: tuple[int, int]) -> None:
    widths = (3, 1)
    content = written(tmp_path, fmt, widths, 400, [f":{skew}" for skew in skews])
    for number, expected in enumerate(slow_signals(content, fmt, widths, 400)):
        got, skew = read(tmp_path / "r", [number]), skews[number]
        samples = np.array(expected[skew:])
        there = samples != MISSING.get(fmt)
        mv = (got.values[0] - got.baseline[0]) / got.gain[0]
        tolerance = got.requantisation_uv / 1000 * 1.001 + 1e-9
        np.testing.assert_allclose(mv[: len(samples)][there], samples[there] / 200, rtol=1e-12, atol=tolerance)
        assert got.missing == skew + (~there).sum()
        assert len(got.values[0]) == len(expected)


def test_skew_in_plain_records_as_wfdb_reads_it(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).integers(-2000, 2000, (900, 2))
    wave.astype("<i2").tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text("r 2 250 900\nr.dat 16 200\nr.dat 16:31 200\n")
    theirs = wfdb.rdrecord(str(tmp_path / "r"), physical=False).d_signal
    got = read(tmp_path / "r", [0, 1])
    np.testing.assert_array_equal(got.values[0], theirs[:, 0])
    np.testing.assert_array_equal(got.values[1, :-31], theirs[:-31, 1])
    assert (got.missing, len(got.gaps)) == (31, 0)
    (tmp_path / "r.hea").write_text("r 2 250 900\nr.dat 16 200\nr.dat 16:75 200\n")
    assert read(tmp_path / "r", [0, 1]).gaps.tolist() == [[825, 900]]


@pytest.mark.parametrize("fmt", ["508", "516", "524"])
def test_compressed_frames(tmp_path: Path, fmt: str) -> None:
    wave = [np.random.default_rng(0).integers(-100, 100, 3000), np.random.default_rng(1).integers(-100, 100, 1000)]
    wfdb.wrsamp(
        "r", 100, ["mV"] * 2, ["a", "b"], e_d_signal=wave, fmt=[fmt] * 2, adc_gain=[200] * 2, baseline=[0] * 2,
        samps_per_frame=[3, 1], write_dir=str(tmp_path),
    )  # fmt: skip
    for number, rate in enumerate((300, 100)):
        got = read(tmp_path / "r", [number])
        assert got.fs == rate
        np.testing.assert_array_equal(got.values[0], wave[number])


def test_a_slower_lead_is_brought_to_the_rate_of_the_fastest(tmp_path: Path) -> None:
    """A sine of 5 Hz at 60 Hz and at 240 Hz is one sine, and stands where it stood."""
    fast = np.rint(4000 * np.sin(2 * np.pi * 5 * np.arange(2400) / 240))
    slow = np.rint(4000 * np.sin(2 * np.pi * 5 * np.arange(600) / 60))
    frames = np.concatenate([fast.reshape(10, 240), slow.reshape(10, 60), np.zeros((10, 1))], axis=1)
    frames.astype("<i2").tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text(
        "r 3 1 10\nr.dat 16x240 1000/mV 9 0 0 0 0 II\nr.dat 16x60 1000/mV 9 0 0 0 0 V1\nr.dat 16 10/degC 9 0 0 0 0 T\n"
    )
    got = record(tmp_path / "r")
    assert (got.fs, got.leads, got.signal.shape) == (240, ("II", "V1"), (2, 2400))
    np.testing.assert_array_equal(got.signal[0], fast)
    np.testing.assert_array_equal(got.signal[1], np.rint(resample_poly(slow, 4, 1, padtype="line")))
    assert np.abs(got.signal[1, 200:-200] - fast[200:-200]).max() <= 12
    assert record(tmp_path / "r", "V1").fs == 60
    assert record(tmp_path / "r", "V1", "II").fs == 240


@pytest.mark.parametrize(
    ("frame_rate", "width"), [(1, 250), (0.1, 2500), (0.333333333333, 750), (0.5, 500), (250, 1), (125, 2)]
)
def test_the_rate_of_the_signal_counts_not_that_of_its_frames(tmp_path: Path, frame_rate: float, width: int) -> None:
    wave = np.rint(300 * np.sin(np.arange(5000) / 9)).astype("<i2")
    wave.tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text(f"r 1 {frame_rate} {5000 // width}\nr.dat 16x{width} 200/mV 16 0 0 0 0 ECG\n")
    got = record(tmp_path / "r")
    assert got.fs == 250
    np.testing.assert_array_equal(got.signal[0], wave[: 5000 // width * width])


def test_annotations_move_to_the_signals_rate(tmp_path: Path) -> None:
    """In frames where their file does not say its resolution, in its own where it does."""
    wave = np.rint(300 * np.sin(np.arange(5000) / 9)).astype("<i2")
    for name, fs, marks in (("frames", None, [3, 7, 19]), ("own", 125, [375, 881, 2499])):
        wave.tofile(tmp_path / f"{name}.dat")
        (tmp_path / f"{name}.hea").write_text(f"{name} 1 1 20\n{name}.dat 16x250 200/mV 16 0 0 0 0 ECG\n")
        symbols, texts = ["N", "V", "+"], ["", "", "(AFIB"]
        wfdb.wrann(name, "atr", np.array(marks), symbol=symbols, aux_note=texts, fs=fs, write_dir=str(tmp_path))
    assert record(tmp_path / "frames").beats.tolist() == [750, 1750]
    assert record(tmp_path / "frames").rhythms.tolist() == [[4750, 5000, 3]]
    assert record(tmp_path / "own").beats.tolist() == [750, 1762]
    assert record(tmp_path / "own").rhythms.tolist() == [[4998, 5000, 3]]


def test_a_rate_outside_the_range_is_refused_for_the_lead_that_has_it(tmp_path: Path) -> None:
    np.random.default_rng(0).integers(-99, 99, 40 * 101).astype("<i2").tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text("r 2 0.5 40\nr.dat 16x100 200/mV 16 0 0 0 0 II\nr.dat 16 200/mV 16 0 0 0 0 V1\n")
    assert record(tmp_path / "r", "II").fs == 50
    with pytest.raises(RecordRefused, match=r"sampling rate must lie from 1 to 1e\+06 Hz, the header says 0.5"):
        record(tmp_path / "r", "V1")


def test_ecg_in_frames_of_a_second(real_data: Path) -> None:
    folder = real_data / "field" / "01_many_samples_per_frame"
    if not folder.is_dir():
        pytest.skip("the situations are not on this machine")
    plain = record(real_data / "field" / "01_reference" / "h0")
    for file in sorted(folder.glob("*.hea")):
        got = record(file.with_suffix(""))
        assert (got.fs, got.leads, got.signal.shape) == (250, ("ECG",), (1, 15000))
        assert ((got.signal - got.baseline[0]) / got.gain[0]).std() == pytest.approx(0.157, abs=0.003)
    np.testing.assert_array_equal(record(folder / "h0").signal, plain.signal)


def test_compressed_files_that_are_others_than_the_header_says(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).integers(-100, 100, (1000, 2))
    wfdb.wrsamp("r", 250, ["mV"] * 2, ["a", "b"], d_signal=wave, fmt=["516"] * 2, adc_gain=[200] * 2, baseline=[0] * 2,
                write_dir=str(tmp_path))  # fmt: skip
    for lines, reason in (
        (["r.dat 516x2 200", "r.dat 516 200"], "must have one number of samples a frame"),
        (["r.dat 508 200", "r.dat 508 200"], "r.dat is FLAC PCM_16 of 2 channels, the header says 2 of its format"),
        (["r.dat 516 200"], "of 2 channels, the header says 1 of its format"),
        (["r.dat 516+1 200", "r.dat 516+1 200"], "r.dat is cut off: it holds less than 1000 samples"),
        (["r.dat 516+5000 200", "r.dat 516+5000 200"], "r.dat cannot be read as FLAC"),
    ):
        (tmp_path / "r.hea").write_text("\n".join([f"r {len(lines)} 250 1000", *lines, ""]))
        with pytest.raises(RecordRefused, match=reason):
            read(tmp_path / "r", [0])
    (tmp_path / "r.hea").write_text("r 2 250 900\nr.dat 516+100 200\nr.dat 516+100 200\n")
    np.testing.assert_array_equal(read(tmp_path / "r", [1, 0]).values, wave[100:, ::-1].T)
