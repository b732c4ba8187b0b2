"""Recordings of any length and rate as one array of one length and rate, made once and shared by all seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from ecgray.shards.archive import Archive
from ecgray.shards.resample import resampling_ratio

_RECORDS_AT_ONCE = 128

MOST_IN_GAPS = 0.5
"""Share of what the network is shown that may lie in gaps of its record for a class to be asked or given."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """(mV - mean_mv) / sd_mv, then resampled to ``fs`` Hz, then brought to ``length_samples`` with zeros on the
    ``padding`` side; of longer records the samples at the other side stay (W61, W62)."""

    mean_mv: float
    sd_mv: float
    fs: float
    length_samples: int
    padding: Literal["before", "after"] = "before"


def mostly_in_gaps(
    archive: Archive, index: npt.NDArray[np.int64], seconds: float, padding: Literal["before", "after"]
) -> npt.NDArray[np.bool_]:
    """(len(index),) whether more than MOST_IN_GAPS is missing of a record's last (padding after: first) ``seconds``."""
    gone = np.zeros(len(index), bool)
    for place in np.flatnonzero(np.isin(index, archive.gaps[:, 0])):
        record, samples = index[place], int(archive.samples[index[place]])
        span = min(samples, max(round(seconds * archive.fs), 1))
        start = samples - span if padding == "before" else 0
        gone[place] = archive.in_gap([record], [start], span)[0] > MOST_IN_GAPS * span
    return gone


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
            out[rows] = to_length(at_rate(cut, archive.gain[record], archive.baseline[record], archive.fs, how), how)
    return out


def at_rate(
    cut: npt.NDArray[np.int16],
    gain: npt.NDArray[np.float32],
    baseline: npt.NDArray[np.float32],
    fs: float,
    how: Preprocessing,
) -> npt.NDArray[np.float32]:
    """(n, leads, samples) ADC units at ``fs`` Hz, standardised and at ``how.fs``; gain, baseline: (n, leads)."""
    ratio = resampling_ratio(fs, how.fs)
    signal = (((cut - baseline[:, :, None]) / gain[:, :, None] - how.mean_mv) / how.sd_mv).astype(np.float32)
    return signal if ratio == 1 else resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1)


def to_length(signal: npt.NDArray[np.float32], how: Preprocessing) -> npt.NDArray[np.float32]:
    """(..., samples) as (..., how.length_samples): padded, or cut at the padding's side."""
    length = how.length_samples
    missing = max(length - signal.shape[-1], 0)
    before = how.padding == "before"
    kept = signal[..., -length:] if before else signal[..., :length]
    return np.pad(kept, [(0, 0)] * (signal.ndim - 1) + [(missing, 0) if before else (0, missing)])
