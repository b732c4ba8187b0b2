"""Gaps of a record: stretches in which samples of a lead are missing for longer than can be bridged.

Gaps are int64 (k, 2), half-open in samples of the record, ascending and apart. The signal inside them is interpolated,
so that every sample has a value, and nobody is asked about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Intervals = npt.NDArray[np.int64]

BRIDGED_S = 0.2
"""Seconds that may be missing at a time and are taken as interpolated: less than what lies between two beats."""
LEAST_S, LEAST_SHARE = 10.0, 0.5
"""A record is of use where one stretch between its gaps is as long as this, or what is left is this share of it."""

NO_GAPS: Intervals = np.empty((0, 2), np.int64)


def runs(mask: npt.NDArray[np.bool_]) -> Intervals:
    """Start and end of every run of True."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return edges.reshape(-1, 2).astype(np.int64)


def union(parts: Sequence[Intervals]) -> Intervals:
    """The intervals that cover what any of the parts covers; those that touch are one."""
    every = np.concatenate([NO_GAPS, *parts])
    if not len(every):
        return NO_GAPS
    every = every[np.argsort(every[:, 0], kind="stable")]
    reach = np.maximum.accumulate(every[:, 1])
    first = np.append(True, every[1:, 0] > reach[:-1])
    return np.stack([every[first, 0], reach[np.append(first[1:], True)]], axis=1)


def between(gaps: Intervals, samples: int) -> Intervals:
    """The stretches of a record of ``samples`` that lie outside its gaps."""
    if not len(gaps):
        return np.array([[0, samples]], np.int64)
    edges = np.concatenate([[0], gaps.reshape(-1), [samples]]).reshape(-1, 2)
    return edges[edges[:, 0] < edges[:, 1]]


def moved(gaps: Intervals, ratio: Fraction, samples: int) -> Intervals:
    """The gaps with ``ratio`` new samples per old one, in a record that then has ``samples``; rounded outwards."""
    over, under = ratio.as_integer_ratio()
    start, end = gaps[:, 0] * over // under, -(-gaps[:, 1] * over // under)
    wider = np.stack([np.minimum(start, samples), np.minimum(end, samples)], axis=1)
    return union([wider[wider[:, 0] < wider[:, 1]]])


def enough_left(gaps: Intervals, samples: int, fs: float) -> bool:
    """Whether a record is of use in spite of its gaps."""
    left = np.diff(between(gaps, samples)).reshape(-1)
    return bool(left.sum() >= LEAST_SHARE * samples or left.max(initial=0) >= LEAST_S * fs)
