"""Remarks about records that are used all the same: what was guessed, left out, or looks wrong; one line per kind.

A record carries its remarks as ``Record.notes`` (kind -> what of it); a shard set keeps them among the record's
attributes, under ``notes``. A new kind is one entry of KINDS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

KINDS: dict[str, str] = {
    "no_unit": "do not say the unit of a signal, and WFDB then means mV",
    "uncalibrated": "do not say the gain of a signal, and WFDB then means 200 per physical unit",
    "left_out": "hold signals that are no ECG lead, which are left out",
    "same_names": "have leads of one name, or of names that differ in case alone",
    "low_rate": "are sampled below 100 Hz, where little is left of a beat's form",
    "gaps": "have gaps, where samples are missing",
    "heart_rate": "have beats at a rate outside 25 to 220 per minute",
    "beats_elsewhere": "mark no beat in the file that was read, but in one beside it (--beats-annotator takes it)",
    "flat": "are flat for most of their length",
}
"""What is remarked -> what is said of the records: the words after "3 of 10 records"."""


def lines(notes: Iterable[tuple[str, Mapping[str, str]]], records: int) -> list[str]:
    """One line per kind that occurs, in the order of KINDS: how many of ``records`` it is said of, and of the first one
    what. ``notes``: a record's name and its notes."""
    first: dict[str, str] = {}
    count = dict.fromkeys(KINDS, 0)
    for record, own in notes:
        for kind, detail in own.items():
            if kind in count:  # a set of a later version may know more
                count[kind] += 1
                first.setdefault(kind, f"{record} ({detail})" if detail else record)
    return [f"{count[kind]:,} of {records:,} records {KINDS[kind]}: {first[kind]}" for kind in KINDS if count[kind]]
