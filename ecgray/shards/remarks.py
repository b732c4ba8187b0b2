"""What is remarked of a record's signal and detected beats, and of a set: what looks wrong and is used all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ecgray.databases.record import Record

HEART_RATE = (25.0, 220.0)
"""Beats per minute outside which a detector has hardly found the beats, or a file hardly marks each."""
AMPLITUDE_MV = (0.02, 20.0)
"""What an ECG reaches from its lowest to its highest: six standard deviations of a lead, median over the records."""
FLAT_S, FLAT_UNITS = 1.0, 2
"""A second is flat where the values of a lead span no more ADC units: a line, and the last digit's noise."""


def remarks(record: Record) -> Iterator[tuple[str, str]]:
    """Kind (of ``notes.KINDS``) and what."""
    samples, gaps = record.signal.shape[1], record.gaps
    lost = int(np.diff(gaps).sum()) if len(gaps) else 0
    if lost:
        yield (
            "gaps",
            f"{lost / record.fs:.3g} s in {len(gaps)} gaps" if len(gaps) > 1 else f"{lost / record.fs:.3g} s",
        )
    if (len(record.beats) or record.attributes.get("beats") == "detected") and lost < samples:
        rate = len(record.beats) / (samples - lost) * record.fs * 60
        if not HEART_RATE[0] <= rate <= HEART_RATE[1]:
            yield "heart_rate", f"{rate:.0f}"
    for name, signal in zip(record.leads, record.signal, strict=True):
        if (share := _flat_share(signal, gaps, record.fs)) > 0.5:
            yield "flat", f"lead {name}, {share:.0%}"
            break


def _flat_share(signal: npt.NDArray[np.int16], gaps: npt.NDArray[np.int64], fs: float) -> float:
    """The share of seconds outside the gaps that are flat in a lead (samples,); 0 where it is less than a half."""
    second = max(round(FLAT_S * fs), 2)
    count = len(signal) // second
    seconds = signal[: count * second].reshape(count, second)
    few = seconds[:, :: max(second // 5, 1)]  # which tell of most seconds that they are not
    flat = few.max(axis=1) <= few.min(axis=1).astype(np.int32) + FLAT_UNITS
    kept = count
    if len(gaps):
        beside = np.ones(count, bool)
        for start, end in (gaps // second).tolist():
            beside[start : end + 1] = False
        flat, kept = flat & beside, int(beside.sum())
    if 2 * int(flat.sum()) <= kept:
        return 0.0
    chosen = seconds[flat]
    return int((chosen.max(axis=1) <= chosen.min(axis=1).astype(np.int32) + FLAT_UNITS).sum()) / kept


def set_remarks(leads: Sequence[str], sd_mv: npt.NDArray[np.float64]) -> list[str]:
    """One line for each lead whose amplitude is none of an ECG. ``sd_mv``: (N, leads), NaN where it is not known."""
    lines = []
    for lead, column in zip(leads, sd_mv.T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) and not AMPLITUDE_MV[0] <= (amplitude := 6 * float(np.median(known))) <= AMPLITUDE_MV[1]:
            lines.append(
                f"Lead {lead} spans {amplitude:.3g} mV in its median record (six standard deviations), and an ECG "
                f"{AMPLITUDE_MV[0]:g} to {AMPLITUDE_MV[1]:g} mV: is the unit in the headers right?"
            )
    return lines
