"""A record at another sampling rate, its annotations moved along."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ecgray.databases import gaps
from ecgray.databases.lead_values import LARGEST_TERM, at_ratio, to_int16
from ecgray.databases.record import Record, RecordRefused
from ecgray.databases.wfdb_header import MAX_VALUES


def resample(record: Record, fs: float) -> Record:
    """The record at ``fs`` Hz: polyphase filtering with zero phase, then int16 again with the same gain and baseline.

    The rates' ratio is taken exactly where its terms are at most 50,000 (as of all whole rates up to there), else the
    coarsest ratio that is off by less than half a sample at the record's end: 10 s at 249.9999 Hz pass for 250 Hz.

    A lead that overshoots int16 is shifted or gets a smaller gain (``to_int16``), and the worst rounding error is kept
    in microvolt. Positions go to round(sample * new / old), inside the new signal and ascending; a rhythm shorter than
    half a new sample vanishes; a gap is rounded outwards.

    Raises RecordRefused for a single sample, a ratio of larger terms, and a result beyond the limit of a record.
    """
    ratio = _ratio(fs, record)
    leads, gain, baseline, worst = [], record.gain.copy(), record.baseline.copy(), record.requantisation_uv
    for lead, signal in enumerate(record.signal):
        adc = at_ratio(signal, ratio, baseline[lead])
        values, gain[lead], baseline[lead], error = to_int16(
            adc, int(adc.min()), int(adc.max()), gain[lead], baseline[lead]
        )
        worst = max(worst, error)
        leads.append(values)
    resampled = np.stack(leads)
    samples = resampled.shape[1]
    zones = record.rhythms.copy()
    zones[:, :2] = np.minimum(_moved(zones[:, :2], ratio), samples)
    return replace(
        record,
        fs=float(fs),
        signal=resampled,
        gain=gain,
        baseline=baseline,
        beats=np.minimum(_moved(record.beats, ratio), samples - 1),
        rhythms=zones[zones[:, 0] < zones[:, 1]],
        gaps=gaps.moved(record.gaps, ratio, samples),
        requantisation_uv=worst,
    )


def resampling_ratio(fs_from: float, fs_to: float) -> Fraction:
    """Up / down factors between two rates in Hz, each taken to a thousandth's fraction: for signals that are only
    looked at, where ``resample`` keeps positions."""
    return Fraction(fs_to).limit_denominator(1000) / Fraction(fs_from).limit_denominator(1000)


def _ratio(fs: float, record: Record) -> Fraction:
    """New samples per old one."""
    samples = record.signal.shape[1]
    if samples < 2:
        raise RecordRefused("a single sample cannot be resampled")
    # Of the decimals that headers and people write, not of the binary numbers nearest to them.
    ratio = exact = Fraction(str(float(fs))) / Fraction(str(float(record.fs)))
    if max(exact.as_integer_ratio()) > LARGEST_TERM:

        def drift(term: int) -> float:
            return float(abs(exact.limit_denominator(term) - exact) * samples)

        term = 1 + bisect_left(range(1, LARGEST_TERM), True, key=lambda index: drift(index) < 0.5)
        ratio = exact.limit_denominator(term)
        if drift(term) >= 0.5 or not 0 < ratio <= LARGEST_TERM:
            raise RecordRefused(
                f"{samples} samples at {record.fs:.9g} Hz cannot be brought to {fs:.9g} Hz by a bounded filter;"
                " correct the header's rate"
            )
    if samples * ratio * len(record.leads) > MAX_VALUES:
        raise RecordRefused(
            f"its samples would be {float(samples * ratio):.3g} at {fs:g} Hz, beyond {MAX_VALUES} values"
        )
    return ratio


def _moved(samples: npt.NDArray[np.int64], ratio: Fraction) -> npt.NDArray[np.int64]:
    """round(samples * ratio) in integers, halves upwards."""
    return (2 * samples * ratio.numerator + ratio.denominator) // (2 * ratio.denominator)
