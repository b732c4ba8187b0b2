"""Mean and variance in mV over any amount of int16 signal, exact per record and merged without order effects."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ecgray.databases.gaps import NO_GAPS, between

_CHUNK = 1 << 22
"""Samples per dot product: 2^22 squares of at most 2^30 stay below 2^53, so float64 sums are exact integers."""


@dataclass(frozen=True)
class Moments:
    """Number of values, their mean, and the sum of squared deviations from it."""

    n: int
    mean: float
    m2: float

    @property
    def sd(self) -> float:
        """Population standard deviation."""
        return math.sqrt(self.m2 / self.n) if self.n else 0.0


def lead_moments(
    signal: npt.NDArray[np.int16],
    gain: npt.NDArray[np.float64],
    baseline: npt.NDArray[np.float64],
    gaps: npt.NDArray[np.int64] = NO_GAPS,
) -> list[Moments]:
    """Moments in mV of each lead of a signal (leads, samples) outside its gaps, from exact integer sums of the ADC
    values."""
    parts = []
    stretches = between(gaps, signal.shape[1]).tolist()
    n = sum(end - start for start, end in stretches)
    for lead, units_per_mv, zero in zip(signal, gain, baseline, strict=True):
        total = squares = 0
        for begin, end in stretches:
            for start in range(begin, end, _CHUNK):
                chunk = lead[start : min(start + _CHUNK, end)].astype(np.float64)
                total += int(chunk.sum())
                squares += int(np.einsum("i,i", chunk, chunk))  # a BLAS dot would wake its threads for each record
        mean = float((Fraction(total, n) - Fraction(float(zero))) / Fraction(float(units_per_mv)))
        m2 = float(Fraction(n * squares - total * total, n) / Fraction(float(units_per_mv)) ** 2)
        parts.append(Moments(n, mean, m2))
    return parts


def merge(parts: Iterable[Moments]) -> Moments:
    """Moments of all parts together (the two-pass form of Chan et al. 1979, with correctly rounded sums)."""
    parts = [part for part in parts if part.n]
    n = sum(part.n for part in parts)
    if not n:
        return Moments(0, 0.0, 0.0)
    mean = math.fsum(part.n * part.mean for part in parts) / n
    return Moments(n, mean, math.fsum(part.m2 + part.n * (part.mean - mean) ** 2 for part in parts))
