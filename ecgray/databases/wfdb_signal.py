"""WFDB signal files: the samples of some leads, at the rate of the fastest of them.

The formats: ``wfdb_formats``. A record's frames may hold several samples of a signal; those are its samples, and never
their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ecgray.databases.gaps import BRIDGED_S, LEAST_S, LEAST_SHARE, NO_GAPS, Intervals, enough_left, moved, runs, union
from ecgray.databases.lead_values import LARGEST_TERM, Digital, at_ratio, filled, to_int16
from ecgray.databases.record import RecordRefused
from ecgray.databases.wfdb_formats import FORMATS, Bytes, every_first_of_212, every_second_of_212
from ecgray.databases.wfdb_header import MAX_VALUES, Header, SignalLine, refuse_outside, refuse_rate

MAX_MISSING = 0.1
"""Share of a lead's samples outside the gaps that may be missing; they are filled by linear interpolation."""

MAX_SAMPLES_PER_FLAC_BYTE = 10_000
"""More than the best compression that the format allows; keeps a false header from claiming gigabytes."""

_FLAC_BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}
_CHUNK = 2**18
"""Samples that are decoded at a time where not all signals of a file are wanted, or several share it."""


@dataclass(frozen=True)
class Signal:
    """values: int16 (leads, samples) at ``fs`` Hz; gain, baseline: float64 (leads,), mV = (values - baseline) / gain;
    missing: samples that had no value and were interpolated; gaps: where that is more than can be bridged;
    requantisation_uv: worst error in microvolt."""

    values: npt.NDArray[np.int16]
    fs: float
    gain: npt.NDArray[np.float64]
    baseline: npt.NDArray[np.float64]
    missing: int
    gaps: Intervals
    requantisation_uv: float


def read_signal(path: Path, header: Header, leads: Sequence[int]) -> Signal:
    """The given leads (indices into ``header.signals``) of the record at ``path`` (without suffix).

    Its rate is the highest of the leads' rates; a slower lead is resampled to it. A lead of the header's skew begins
    that many of its samples later, and misses as many at its end. Runs of missing samples longer than BRIDGED_S in any
    lead are gaps.

    Raises RecordRefused when a signal file is missing, cut off, outside the folder or unreadable, when the gaps leave
    too little (``enough_left``), when more than a tenth of a lead is missing outside of them, for an absurd rate, and
    when every lead is constant.
    """
    lines = [header.signals[lead] for lead in leads]
    frames = _checked_length(path.parent, header)
    for lead in leads:
        refuse_rate(header, lead)
    most = max(line.samples_per_frame for line in lines)
    if frames * most * len(leads) > MAX_VALUES:
        raise RecordRefused(f"{len(leads)} x {frames * most} samples are beyond the limit of {MAX_VALUES} values")
    digital: dict[int, Digital] = {}
    for name, members in _members(header).items():
        if wanted := [member for member in members if member in leads]:
            file = path.parent / name
            signals = [header.signals[member] for member in members]
            read = _read_compressed if FORMATS[signals[0].format].compressed else _read_blocks
            chosen = [members.index(member) for member in wanted]
            digital |= dict(zip(wanted, read(file, signals, chosen, frames), strict=True))
    fs = max(header.rate(lead) for lead in leads)
    return _finish([digital[lead] for lead in leads], lines, fs, frames * most)


def _members(header: Header) -> dict[str, list[int]]:
    files: dict[str, list[int]] = {}
    for number, line in enumerate(header.signals):
        files.setdefault(line.file, []).append(number)
    return files


def _checked_length(folder: Path, header: Header) -> int:
    """Frames of the record; every signal file exists inside the folder and is long enough for them."""
    frames = header.frames
    for name, members in _members(header).items():
        lines = [header.signals[member] for member in members]
        path = refuse_outside(folder, name)
        if not path.is_file():
            raise RecordRefused(f"the signal file {name[:100]} is missing")
        if lines[0].format not in FORMATS:
            raise RecordRefused(f"the signal format {lines[0].format} is unknown to WFDB")
        if len({(line.format, line.byte_offset) for line in lines}) > 1:
            raise RecordRefused(f"the header gives {name} two formats or two offsets")
        form = FORMATS[lines[0].format]
        per_frame = sum(line.samples_per_frame for line in lines)
        if per_frame > 2**20:
            raise RecordRefused(f"the header gives {name} {per_frame} samples per frame")
        size = path.stat().st_size
        if form.compressed:
            if frames is None:
                raise RecordRefused(f"the header must give the length of the compressed file {name}")
            if frames * per_frame > MAX_SAMPLES_PER_FLAC_BYTE * size:
                raise RecordRefused(f"{name} is too short for the {frames} samples that the header announces")
        else:
            held = int(max(size - lines[0].byte_offset, 0) / (form.bytes_per_sample * per_frame))
            frames = held if frames is None else frames
            if held < frames:
                raise RecordRefused(f"{name} is cut off: it holds {held} of {frames} samples")
        if any(line.skew >= (frames or MAX_VALUES) * line.samples_per_frame for line in lines):
            raise RecordRefused(f"the header skews {name} beyond its length")
    if not frames:
        raise RecordRefused("the record is empty: its signal file holds no sample")
    values = frames * sum(line.samples_per_frame for line in header.signals)
    if values > MAX_VALUES:
        raise RecordRefused(f"{len(header.signals)} signals of {frames} frames are beyond {MAX_VALUES} values")
    return frames


def _read_blocks(file: Path, signals: Sequence[SignalLine], wanted: Sequence[int], frames: int) -> list[Digital]:
    """The wanted ones among the signals that share a file, each (frames * its samples per frame,)."""
    with file.open("rb", buffering=0) as stream:
        stream.seek(signals[0].byte_offset)
        parts = _alone(stream, signals[0], frames) if len(signals) == 1 else _columns(stream, signals, wanted, frames)
    if signals[0].format == "8":  # differences, and these are the sums
        starts = [signals[which].initial for which in wanted]
        return [start + np.cumsum(part, dtype=np.int64) for start, part in zip(starts, parts, strict=True)]
    return parts


def _alone(stream: BinaryIO, line: SignalLine, frames: int) -> list[Digital]:
    samples = frames * line.samples_per_frame
    return [FORMATS[line.format].decode(_blocks(stream, line.format, samples))[:samples]]


def _columns(stream: BinaryIO, signals: Sequence[SignalLine], wanted: Sequence[int], frames: int) -> list[Digital]:
    name = signals[0].format
    widths = [signal.samples_per_frame for signal in signals]
    left, per_frame = np.cumsum([0, *widths]), sum(widths)
    halves = (every_first_of_212, every_second_of_212) if name == "212" and widths == [1, 1] else None
    parts: list[Digital] = []
    at_once = max(_CHUNK // per_frame, 1) * FORMATS[name].block_samples  # frames, and whole blocks of them
    for first in range(0, frames, at_once):
        count = min(at_once, frames - first)
        packed = _blocks(stream, name, count * per_frame)
        if halves:  # nearly every file in this format, and one lead of it is often enough
            columns = [halves[which](packed) for which in wanted]
        else:
            rows = FORMATS[name].decode(packed)[: count * per_frame].reshape(count, per_frame)
            columns = [rows[:, left[which] : left[which + 1]].reshape(-1) for which in wanted]
        parts = parts or [
            np.empty(frames * widths[which], column.dtype) for which, column in zip(wanted, columns, strict=True)
        ]
        for which, part, column in zip(wanted, parts, columns, strict=True):
            part[first * widths[which] : (first + count) * widths[which]] = column
    return parts


def _blocks(stream: BinaryIO, name: str, samples: int) -> Bytes:
    """The next blocks of the stream that hold ``samples``; the last one may be cut after them."""
    form = FORMATS[name]
    size = -(-samples * form.block_bytes // form.block_samples)
    packed = np.fromfile(stream, np.uint8, size)
    if len(packed) < size:
        raise RecordRefused(f"the signal file was cut off while it was read, {size - len(packed)} bytes early")
    return np.pad(packed, (0, -size % form.block_bytes)) if size % form.block_bytes else packed


def _read_compressed(file: Path, signals: Sequence[SignalLine], wanted: Sequence[int], frames: int) -> list[Digital]:
    """As ``_read_blocks``, of a FLAC file with a channel per signal; its offset counts samples."""
    import soundfile  # slow to import, and needed for rare formats only

    widths = {signal.samples_per_frame for signal in signals}
    samples, offset = frames * signals[0].samples_per_frame, signals[0].byte_offset
    if len(widths) > 1:
        raise RecordRefused(f"{file.name[:100]} is compressed, and its signals must have one number of samples a frame")
    parts: list[Digital] = [np.empty(samples, np.int32) for _ in wanted]
    try:
        with soundfile.SoundFile(file) as flac:
            bits = _FLAC_BITS.get(flac.subtype, 0) if flac.format == "FLAC" else 0
            if not 0 < bits <= int(signals[0].format) - 500 or flac.channels != len(signals):
                kind = f"{flac.format} {flac.subtype} of {flac.channels} channels"
                raise RecordRefused(f"{file.name[:100]} is {kind}, the header says {len(signals)} of its format")
            flac.seek(offset)
            for first in range(0, samples, _CHUNK):
                # Of fewer bits, the sample stands at the upper end of the 32.
                block = flac.read(min(_CHUNK, samples - first), dtype="int32", always_2d=True) >> (32 - bits)
                if len(block) < min(_CHUNK, samples - first):
                    raise RecordRefused(f"{file.name[:100]} is cut off: it holds less than {samples} samples")
                for which, part in zip(wanted, parts, strict=True):
                    part[first : first + len(block)] = block[:, which]
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        reason = " ".join(str(error).replace(str(file), file.name).split())[:160]
        raise RecordRefused(f"{file.name[:100]} cannot be read as FLAC: {reason}") from None
    return parts


def _finish(parts: Sequence[Digital], lines: Sequence[SignalLine], fs: float, samples: int) -> Signal:
    gain = np.array([line.gain for line in lines])
    baseline = np.array([line.baseline for line in lines], np.float64)
    most = max(line.samples_per_frame for line in lines)
    values: list[npt.NDArray[np.int16]] = []
    gaps = [NO_GAPS] * len(lines)
    interpolated, constant, worst = 0, 0, 0.0
    for row, (lead, line) in enumerate(zip(parts, lines, strict=True)):
        lead, missing = _deskewed(lead, line.skew), NO_GAPS
        low, high = int(lead.min()), int(lead.max())
        stand_in = FORMATS[line.format].missing
        if line.skew or (stand_in is not None and low <= stand_in):
            missing = _missing(lead, line)
            if int(np.diff(missing).sum()) == len(lead):
                advice = "take leads that all have with --lead" if len(lines) > 1 else ""
                raise RecordRefused(f"every sample of lead {line.name[:100]} is missing (NaN)", advice)
            lead = filled(lead, missing)
            low, high = int(lead.min()), int(lead.max())
        if len(missing):
            long = _gaps_of(missing, len(lead), fs * line.samples_per_frame / most, line)
            gaps[row] = moved(long, Fraction(most, line.samples_per_frame), samples)
            interpolated += int(np.diff(missing).sum()) * most // line.samples_per_frame
        constant += low == high
        if line.samples_per_frame != most:
            ratio = Fraction(most, line.samples_per_frame)
            if max(ratio.as_integer_ratio()) > LARGEST_TERM:
                raise RecordRefused(f"lead {line.name[:100]} cannot be resampled to {most} samples per frame")
            lead = at_ratio(lead, ratio, baseline[row])
            low, high = int(lead.min()), int(lead.max())
        fitting, gain[row], baseline[row], error = to_int16(lead, low, high, gain[row], baseline[row])
        values.append(fitting)
        worst = max(worst, error)
    every = union(gaps) if interpolated else NO_GAPS
    if len(every) and not enough_left(every, samples, fs):
        lost = [int(np.diff(own).sum()) for own in gaps]
        name, share = lines[int(np.argmax(lost))].name[:100], max(lost) / samples
        raise RecordRefused(
            f"{share:.1%} of lead {name} is missing (NaN); outside the gaps there must be {LEAST_S:g} s in one"
            f" piece, or {LEAST_SHARE:.0%} of the record"
        )
    if constant == len(lines):
        raise RecordRefused("the signal is constant")
    signal = values[0][None] if len(values) == 1 else np.stack(values)
    return Signal(signal, fs, gain, baseline, interpolated, every, worst)


def _gaps_of(missing: Intervals, samples: int, rate: float, line: SignalLine) -> Intervals:
    """The runs too long to be bridged at the lead's rate. RecordRefused where the others are too much of the rest."""
    length = np.diff(missing).reshape(-1)
    long = length > BRIDGED_S * rate
    left = samples - int(length[long].sum())
    if (short := int(length[~long].sum())) > MAX_MISSING * left:
        where = " outside its gaps" if long.any() else ""
        raise RecordRefused(
            f"{short / left:.1%} of lead {line.name[:100]} is missing (NaN){where}, the limit is {MAX_MISSING:.0%}"
        )
    return missing[long]


def _deskewed(lead: Digital, skew: int) -> Digital:
    """The lead from its sample number ``skew`` on, as long as before; what is behind its end is missing."""
    return np.concatenate([lead[skew:], np.full(skew, lead[-1])]) if skew else lead


def _missing(lead: Digital, line: SignalLine) -> Intervals:
    """The runs of the deskewed lead that are missing."""
    stand_in, samples = FORMATS[line.format].missing, len(lead)
    held = samples - line.skew
    own = NO_GAPS if stand_in is None else runs(lead[:held] == stand_in)
    return union([own, np.array([[held, samples]], np.int64)[: int(line.skew > 0)]])
