"""Recordings of any length and rate as one array of one length and rate, made once and shared by all seeds."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from ecgray.shards.archive import Archive

_RECORDS_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """(mV - mean_mv) / sd_mv, then resampled to ``fs`` Hz, then brought to ``length_samples`` with zeros on the
    ``padding`` side; of longer records the samples at the other side stay (W61, W62)."""

    mean_mv: float
    sd_mv: float
    fs: float
    length_samples: int
    padding: Literal["before", "after"] = "before"


def prepare(archive: Archive, index: npt.NDArray[np.int64], how: Preprocessing) -> npt.NDArray[np.float32]:
    """(len(index), leads, length_samples) float32 of the archive's records ``index``, in that order.

    Records of one length are read, standardised and resampled together.
    """
    ratio = resampling_ratio(archive.fs, how.fs)
    out = np.zeros((len(index), len(archive.leads), how.length_samples), np.float32)
    lengths = np.asarray(archive.samples)[index]
    # What lies further from the end that stays than the target needs (and the filter reaches) is never read.
    reach = 10 * max(ratio.numerator, ratio.denominator) // ratio.numerator + 1
    needed = -(-how.length_samples * ratio.denominator // ratio.numerator) + reach
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        for rows in np.array_split(places, -(-len(places) // _RECORDS_AT_ONCE)):
            record = index[rows]
            skip = max(int(length) - needed, 0) // ratio.denominator * ratio.denominator
            start = skip if how.padding == "before" else 0
            cut = archive.cut(record, np.full(len(record), start), int(length) - skip)
            gain, baseline = archive.gain[record][:, :, None], archive.baseline[record][:, :, None]
            signal = (((cut - baseline) / gain - how.mean_mv) / how.sd_mv).astype(np.float32)
            if ratio != 1:
                signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1)
            if how.padding == "before":
                kept = signal[..., -how.length_samples :]
                out[rows, :, how.length_samples - kept.shape[-1] :] = kept
            else:
                kept = signal[..., : how.length_samples]
                out[rows, :, : kept.shape[-1]] = kept
    return out


def resampling_ratio(fs_from: float, fs_to: float) -> Fraction:
    """Up / down factors between two rates in Hz."""
    return Fraction(fs_to).limit_denominator(1000) / Fraction(fs_from).limit_denominator(1000)
