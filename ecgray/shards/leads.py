"""Which lead is which, by name: the leads of records, sets and networks meet here and nowhere by position alone."""

from __future__ import annotations

from collections.abc import Sequence

from ecgray.databases.ecg_leads import lead_key


def same_lead(one: str, other: str) -> bool:
    """Whether two names are spellings of one lead: case and blanks do not count."""
    return lead_key(one) == lead_key(other)


def lead_order(given: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Where each of the leads ``wanted`` stands among ``given``; None where they are not the same leads.

    Names count without regard to case and blanks. One lead alone is the other one whatever their names, since
    single-lead databases name theirs as they like ("ecg", "ECG", "MLII") and networks go from one to the next.
    """
    if len(given) == len(wanted) == 1:
        return [0]
    here, there = [lead_key(name) for name in given], [lead_key(name) for name in wanted]
    if here == there:
        return list(range(len(here)))
    if sorted(here) != sorted(there) or len(set(here)) < len(here):
        return None
    return [here.index(name) for name in there]
