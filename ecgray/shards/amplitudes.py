"""Records whose amplitude is far from that of the others: of another unit than the header says, or flat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FAR = 20.0
"""Times above or below the median. People and devices differ by a few times, millivolts and microvolts by 1,000."""


@dataclass(frozen=True, kw_only=True)
class FarOff:
    """A record that is far from the others, by its farthest lead; ``median_mv`` is that lead's over all records."""

    record: str
    lead: str
    sd_mv: float
    median_mv: float

    def __str__(self) -> str:
        return f"{self.record}: sd of lead {self.lead} {self.sd_mv:.3g} mV, the median {self.median_mv:.3g} mV"


def far_off(sd_mv: npt.NDArray[np.float64], leads: Sequence[str], name: Callable[[int], str]) -> list[FarOff]:
    """The records with a lead whose standard deviation is 0, or more than FAR times above or below the median of that
    lead over all records; the farthest first.

    ``sd_mv``: (N, leads), over the whole record, NaN where it is not known; ``name``: of a record's number. A set is
    standardised by the standard deviation over all of it, which one record of a wrong unit spoils; the median holds as
    long as fewer than half of the records are wrong.
    """
    known = [column[~np.isnan(column)] for column in sd_mv.T]
    median = np.array([np.median(column) if len(column) else np.nan for column in known])
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(sd_mv / median))
    distance[sd_mv == 0] = np.inf
    distance[np.isnan(distance)] = 0
    lead = distance.argmax(axis=1)
    worst = distance[np.arange(len(lead)), lead]
    found = np.flatnonzero(worst > np.log(FAR))
    return [
        FarOff(record=name(i), lead=leads[lead[i]], sd_mv=float(sd_mv[i, lead[i]]), median_mv=float(median[lead[i]]))
        for i in found[np.argsort(-worst[found], kind="stable")].tolist()
    ]


def warning(found: Sequence[FarOff], records: int, shards: str) -> str:
    """One line over the records ``found`` among ``records``, for whoever makes or uses the sets ``shards``."""
    return (
        f"{len(found):,} of {records:,} records must be looked at, being far from the others in amplitude (of another "
        f"unit than the header says, or flat?), while mean and sd of the set count them: {found[0]}; see "
        f"'ecgray inspect {shards}'."
    )
