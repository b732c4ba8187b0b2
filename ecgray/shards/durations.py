"""Durations as people read them."""

from __future__ import annotations


def in_hours(seconds: float) -> str:
    """ "1,204.5 h", and "95.2 s" where hours would be nought; "0 h" for nothing."""
    hours = seconds / 3600
    if seconds == 0:
        return "0 h"
    return f"{hours:,.1f} h" if hours >= 0.05 else f"{seconds:,.1f} s"
