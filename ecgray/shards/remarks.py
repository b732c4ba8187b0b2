"""What is remarked of a record's signal and detected beats, and of a set: what looks wrong and is used all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ecgray.databases.gaps import between
from ecgray.databases.record import Record

HEART_RATE = (25.0, 220.0)
"""Beats per minute outside which a detector has hardly found the beats."""
LEAST_FS = 100.0
"""Hz below which a QRS complex is a few samples."""
AMPLITUDE_MV = (0.02, 20.0)
"""What an ECG reaches from its lowest to its highest: six standard deviations of a lead, median over the records."""
FLAT_S, FLAT_UNITS = 1.0, 2
"""A second is flat where the values of a lead span no more ADC units: a line, and the last digit's noise."""


def remarks(record: Record) -> Iterator[tuple[str, str]]:
    """Kind (of ``notes.KINDS``) and what, "" where there is nothing to say."""
    left_s = float(np.diff(between(record.gaps, record.signal.shape[1])).sum()) / record.fs
    if len(record.gaps):
        count, lost_s = len(record.gaps), float(np.diff(record.gaps).sum()) / record.fs
        yield "gaps", f"{count} of {lost_s:.3g} s in all" if count > 1 else f"{lost_s:.3g} s"
    if record.attributes.get("beats") == "detected" and left_s:
        rate = len(record.beats) / left_s * 60
        yield "heart_rate", "" if HEART_RATE[0] <= rate <= HEART_RATE[1] else f"{rate:.0f}"
    lead, share = _flattest(record)
    yield "flat", f"lead {record.leads[lead]}, {share:.0%}" if share > 0.5 else ""


def _flattest(record: Record) -> tuple[int, float]:
    """The lead with the largest share of seconds outside the gaps that are flat, and that share."""
    second = max(round(FLAT_S * record.fs), 2)
    count = record.signal.shape[1] // second
    kept = np.ones(count, bool)
    for start, end in (record.gaps // second).tolist():
        kept[start : end + 1] = False
    if not kept.any():
        return 0, 0.0
    shares = []
    for signal in record.signal:
        seconds = signal[: count * second].reshape(count, second)
        few = seconds[:, :: max(second // 5, 1)].astype(np.int32)  # which tell of most seconds that they are not
        place = np.flatnonzero(kept & (np.ptp(few, axis=1) <= FLAT_UNITS))
        flat = np.ptp(seconds[place].astype(np.int32), axis=1) <= FLAT_UNITS
        shares.append(int(flat.sum()) / int(kept.sum()))
    lead = int(np.argmax(shares))
    return lead, shares[lead]


def set_remarks(fs: float, leads: Sequence[str], sd_mv: npt.NDArray[np.float64]) -> list[str]:
    """One line each for a set at a rate below LEAST_FS and for leads whose amplitude is none of an ECG.

    ``sd_mv``: (N, leads), NaN where it is not known.
    """
    lines = []
    if fs < LEAST_FS:
        lines.append(f"The set is at {fs:g} Hz, and below {LEAST_FS:g} Hz little is left of a beat's form.")
    for lead, column in zip(leads, sd_mv.T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) and not AMPLITUDE_MV[0] <= (amplitude := 6 * float(np.median(known))) <= AMPLITUDE_MV[1]:
            lines.append(
                f"Lead {lead} spans {amplitude:.3g} mV in its median record (six standard deviations), and an ECG "
                f"{AMPLITUDE_MV[0]:g} to {AMPLITUDE_MV[1]:g} mV: is the unit in the headers right?"
            )
    return lines
