"""A record at another sampling rate, its annotations moved along."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from ecgray.databases.record import Record

_INT16 = np.iinfo(np.int16)


def resample(record: Record, fs: float) -> Record:
    """The record at ``fs`` Hz: polyphase filtering with zero phase, then int16 again with the same gain and baseline.

    A lead that overshoots int16 gets a smaller gain, and the worst rounding error is kept in microvolt. Positions go to
    round(sample * new / old), inside the new signal and ascending; a rhythm shorter than half a new sample vanishes.
    """
    ratio = Fraction(fs).limit_denominator(10_000) / Fraction(record.fs).limit_denominator(10_000)
    leads, gain, baseline, worst = [], record.gain.copy(), record.baseline.copy(), record.requantisation_uv
    for lead, signal in enumerate(record.signal):
        centred = resample_poly(signal - baseline[lead], ratio.numerator, ratio.denominator, padtype="line")
        adc = np.rint(centred + baseline[lead])
        if adc.min() < _INT16.min or adc.max() > _INT16.max:
            mv = centred / gain[lead]
            gain[lead], baseline[lead] = np.sign(gain[lead]) * _INT16.max / np.abs(mv).max(), 0.0
            adc = np.rint(mv * gain[lead])
            worst = max(worst, float(np.abs(adc / gain[lead] - mv).max() * 1000))
        leads.append(adc.astype(np.int16))
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
        requantisation_uv=worst,
    )


def _moved(samples: npt.NDArray[np.int64], ratio: Fraction) -> npt.NDArray[np.int64]:
    """round(samples * ratio) in integers, halves upwards."""
    return (2 * samples * ratio.numerator + ratio.denominator) // (2 * ratio.denominator)
