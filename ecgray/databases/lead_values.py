"""The samples of one lead: missing ones filled, brought to another rate, and made to fit int16."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ecgray.databases.gaps import Intervals

INT16_LIMIT = 32767
LARGEST_TERM = 50_000
"""Of the ratio of two rates: the filter has twenty times as many taps, 8 MB."""

Digital = npt.NDArray[np.signedinteger]


def to_int16(
    digital: Digital, low: int, high: int, gain: float, baseline: float
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


def filled(lead: Digital, missing: Intervals) -> Digital:
    """The lead with its missing runs interpolated, the ends held; not all of it may be missing."""
    mask = np.zeros(len(lead) + 1, np.int8)
    mask[missing[:, 0]] += 1
    mask[missing[:, 1]] -= 1
    gone = np.cumsum(mask[:-1], dtype=np.int8) > 0
    known = np.flatnonzero(~gone)
    values = lead.copy()
    values[gone] = np.rint(np.interp(np.flatnonzero(gone), known, lead[known])).astype(lead.dtype)
    return values


def at_ratio(lead: Digital, ratio: Fraction, baseline: float) -> npt.NDArray[np.int64]:
    """The lead with ``ratio`` new samples per old one: polyphase filtering with zero phase, the first sample staying
    where it is, rounded."""
    from scipy.signal import resample_poly  # slow to import, and not needed by most readers

    centred = resample_poly(lead - baseline, ratio.numerator, ratio.denominator, padtype="line")
    return np.rint(centred + baseline).astype(np.int64)
