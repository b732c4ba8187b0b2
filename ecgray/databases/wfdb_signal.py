"""WFDB signal files: formats 16 (also inside MATLAB v4 files, ``16+24``) and 212 in numpy, every other one by wfdb.

The formats: https://physionet.org/physiotools/wag/signal-5.htm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ecgray.databases.record import RecordRefused
from ecgray.databases.wfdb_header import MAX_VALUES, Header, SignalLine, refuse_outside

INT16_LIMIT = 32767
MAX_MISSING = 0.1
"""Share of a lead's samples that may be missing; they are filled by linear interpolation. Above it: refused."""

MAX_SAMPLES_PER_FLAC_BYTE = 10_000
"""More than the best compression that the format allows; keeps a false header from claiming gigabytes."""

# Bytes per sample (None: compressed) and the value that stands for a missing sample (None: no such value).
_FORMATS: dict[str, tuple[Fraction | None, int | None]] = {
    "8": (Fraction(1), None),
    "16": (Fraction(2), -(2**15)),
    "24": (Fraction(3), -(2**23)),
    "32": (Fraction(4), -(2**31)),
    "61": (Fraction(2), -(2**15)),
    "80": (Fraction(1), -(2**7)),
    "160": (Fraction(2), -(2**15)),
    "212": (Fraction(3, 2), -(2**11)),
    "310": (Fraction(4, 3), -(2**9)),
    "311": (Fraction(4, 3), -(2**9)),
    "508": (None, -(2**7)),
    "516": (None, -(2**15)),
    "524": (None, -(2**23)),
}


@dataclass(frozen=True)
class Signal:
    """values: int16 (leads, samples); gain, baseline: float64 (leads,), mV = (values - baseline) / gain;
    missing: samples that had no value and were interpolated; requantisation_uv: worst error in microvolt."""

    values: npt.NDArray[np.int16]
    gain: npt.NDArray[np.float64]
    baseline: npt.NDArray[np.float64]
    missing: int
    requantisation_uv: float


def read_signal(path: Path, header: Header, leads: Sequence[int]) -> Signal:
    """The given leads (indices into ``header.signals``) of the record at ``path`` (without suffix).

    Raises RecordRefused when a signal file is missing, cut off, outside the folder or unreadable, when more than a
    tenth of a lead is missing, and when every lead is constant.
    """
    lines = [header.signals[lead] for lead in leads]
    samples = _checked_length(path.parent, header)
    if all(_is_native(line) for line in header.signals):
        digital = _read_native(path.parent, header, leads, samples)
    else:
        digital = _read_with_wfdb(path, leads, lines, samples)
    return _finish(digital, lines)


def decode_212(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Two 12-bit two's complement samples from every three bytes: uint8 (3 n,) -> int16 (2 n,)."""
    return np.stack([_every_first_of_212(packed), _every_second_of_212(packed)], axis=1).reshape(-1)


def to_int16(
    digital: npt.NDArray[np.signedinteger], low: int, high: int, gain: float, baseline: float
) -> tuple[npt.NDArray[np.int16], float, float, float]:
    """(values, gain, baseline, worst error in microvolt) of one lead, in the range -32767 ... 32767.

    ``low`` and ``high`` are its smallest and largest value. What fits stays as it is; what fits after a whole-number
    shift is shifted, still exact; the rest is requantised to the full range.
    """
    if low >= -INT16_LIMIT and high <= INT16_LIMIT:
        return digital.astype(np.int16, copy=False), gain, baseline, 0.0
    middle = (low + high) // 2
    if high - middle <= INT16_LIMIT and middle - low <= INT16_LIMIT:
        return (digital.astype(np.int64) - middle).astype(np.int16), gain, baseline - middle, 0.0
    scale = (high - low) / (2 * INT16_LIMIT)
    centre = (low + high) / 2
    values = np.clip(np.rint((digital - centre) / scale), -INT16_LIMIT, INT16_LIMIT).astype(np.int16)
    error = float(np.abs(values * scale + centre - digital).max()) / abs(gain) * 1000
    return values, gain / scale, (baseline - centre) / scale, error


def _every_first_of_212(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """The low twelve bits of the first two of every three bytes."""
    pairs = np.ndarray((len(packed) // 3,), "<u2", packed, 0, (3,)) << 4
    # The twelve bits now stand at the top, so that the arithmetic shift brings the sign along.
    values = pairs.view(np.int16)
    values >>= 4
    return values


def _every_second_of_212(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Of the last two of every three bytes: the third, below the upper half of the second."""
    pairs = np.ndarray((len(packed) // 3,), "<u2", packed, 1, (3,)).astype(np.uint16)
    upper = (pairs << 8).view(np.int16) >> 4
    upper &= ~np.int16(0xFF)
    pairs >>= 8
    upper |= pairs.view(np.int16)
    return upper


def _is_native(line: SignalLine) -> bool:
    return line.format in ("16", "212") and line.samples_per_frame == 1 and line.skew == 0


def _members(header: Header) -> dict[str, list[int]]:
    files: dict[str, list[int]] = {}
    for number, line in enumerate(header.signals):
        files.setdefault(line.file, []).append(number)
    return files


def _checked_length(folder: Path, header: Header) -> int:
    """Samples per lead; every signal file exists inside the folder and is long enough for them."""
    samples = header.samples
    for name, members in _members(header).items():
        lines = [header.signals[member] for member in members]
        path = refuse_outside(folder, name)
        if not path.is_file():
            raise RecordRefused(f"the signal file {name[:100]} is missing")
        if lines[0].format not in _FORMATS:
            raise RecordRefused(f"the signal format {lines[0].format} is unknown to WFDB")
        if len({(line.format, line.byte_offset) for line in lines}) > 1:
            raise RecordRefused(f"the header gives {name} two formats or two offsets")
        per_sample = _FORMATS[lines[0].format][0]
        per_frame = sum(line.samples_per_frame for line in lines)
        if per_frame < 1 or per_frame > 2**20:
            raise RecordRefused(f"the header gives {name} {per_frame} samples per frame")
        if max(line.skew for line in lines) >= (samples or MAX_VALUES):
            raise RecordRefused(f"the header skews {name} beyond its length")
        if per_sample is None:
            if samples is None:
                raise RecordRefused(f"the header must give the length of the compressed file {name}")
            if samples > MAX_SAMPLES_PER_FLAC_BYTE * path.stat().st_size:
                raise RecordRefused(f"{name} is too short for the {samples} samples that the header announces")
            continue
        size = path.stat().st_size - lines[0].byte_offset
        held = int(max(size, 0) / (per_sample * per_frame))
        samples = held if samples is None else samples
        if held < samples:
            raise RecordRefused(f"{name} is cut off: it holds {held} of {samples} samples")
    if not samples:
        raise RecordRefused("the record is empty: its signal file holds no sample")
    if samples * len(header.signals) > MAX_VALUES:
        raise RecordRefused(f"{len(header.signals)} x {samples} samples are beyond the limit of {MAX_VALUES} values")
    return samples


def _read_native(folder: Path, header: Header, leads: Sequence[int], samples: int) -> npt.NDArray[np.int16]:
    digital = np.empty((len(leads), samples), np.int16)
    for name, members in _members(header).items():
        rows = [row for row, lead in enumerate(leads) if lead in members]
        if not rows:
            continue
        line = header.signals[members[0]]
        count = samples * len(members)
        if line.format == "16":
            flat = np.fromfile(folder / name, "<i2", count, offset=line.byte_offset).astype(np.int16, copy=False)
        else:
            packed = np.fromfile(folder / name, np.uint8, -(-count * 3 // 2), offset=line.byte_offset)
            if len(members) == 2:  # nearly every file in this format, and one lead of it is often enough
                decoders = _every_first_of_212, _every_second_of_212
                for row in rows:
                    digital[row] = decoders[members.index(leads[row])](packed)
                continue
            flat = decode_212(np.pad(packed, (0, -len(packed) % 3)))[:count]
        if len(members) == len(rows) == len(leads) == 1:
            return flat[None]
        digital[rows] = flat.reshape(samples, len(members))[:, [members.index(leads[row]) for row in rows]].T
    return digital


def _read_with_wfdb(
    path: Path, leads: Sequence[int], lines: Sequence[SignalLine], samples: int
) -> npt.NDArray[np.signedinteger]:
    """int (leads, samples). Leads of several samples per frame come as the mean of each frame."""
    import wfdb  # slow to import, and needed for rare formats only

    plain = all(line.samples_per_frame == 1 for line in lines)
    try:
        # wfdb's own means would count missing samples; sample by sample it does not read every format.
        record = wfdb.rdrecord(str(path), channels=list(leads), sampto=samples, physical=False, smooth_frames=plain)
        if plain:
            values = np.ascontiguousarray(record.d_signal.T)
        else:
            values = np.stack([_mean_of_frames(*lead) for lead in zip(record.e_d_signal, lines, strict=True)])
    except Exception as error:
        raise RecordRefused(f"wfdb cannot read the signal: {' '.join(str(error).split())[:160]}") from None
    if values.shape != (len(leads), samples):
        raise RecordRefused(f"wfdb read {values.shape} values where {(len(leads), samples)} were announced")
    return values


def _mean_of_frames(values: npt.NDArray[np.signedinteger], line: SignalLine) -> npt.NDArray[np.signedinteger]:
    """One value per frame: the mean of the samples that are there, towards zero as wfdb smooths them."""
    if line.samples_per_frame == 1:
        return values
    frames = values.reshape(-1, line.samples_per_frame)
    sentinel = _FORMATS[line.format][1]
    known = np.ones(frames.shape, bool) if sentinel is None else frames != sentinel
    count = known.sum(axis=1)
    mean = frames.sum(axis=1, dtype=np.int64, where=known) / np.maximum(count, 1)
    return np.where(count > 0, mean, sentinel or 0).astype(values.dtype)


def _finish(digital: npt.NDArray[np.signedinteger], lines: Sequence[SignalLine]) -> Signal:
    gain = np.array([line.gain for line in lines])
    baseline = np.array([line.baseline for line in lines], np.float64)
    values = np.empty(digital.shape, np.int16) if digital.dtype != np.int16 else digital
    missing, constant, worst = 0, 0, 0.0
    for row, line in enumerate(lines):
        lead = digital[row]
        sentinel = _FORMATS[line.format][1]
        low, high = int(lead.min()), int(lead.max())
        if sentinel is not None and low <= sentinel:
            lead, gaps = _fill(lead, sentinel, line.name[:100])
            missing += gaps
            low, high = int(lead.min()), int(lead.max())
        constant += low == high
        values[row], gain[row], baseline[row], error = to_int16(lead, low, high, gain[row], baseline[row])
        worst = max(worst, error)
    if constant == len(lines):
        raise RecordRefused("the signal is constant")
    return Signal(values, gain, baseline, missing, worst)


def _fill(lead: npt.NDArray[np.signedinteger], sentinel: int, name: str) -> tuple[npt.NDArray[np.signedinteger], int]:
    """The lead with its missing samples interpolated (the ends held), and how many they are."""
    gaps = lead == sentinel
    count = int(gaps.sum())
    if count == len(lead):
        raise RecordRefused(f"every sample of lead {name} is missing (NaN)")
    if count > MAX_MISSING * len(lead):
        raise RecordRefused(f"{count / len(lead):.1%} of lead {name} is missing (NaN), the limit is {MAX_MISSING:.0%}")
    filled = lead.copy()
    known = np.flatnonzero(~gaps)
    filled[gaps] = np.rint(np.interp(np.flatnonzero(gaps), known, lead[known])).astype(lead.dtype)
    return filled, count
