"""What the doctor says: one check, its verdict, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]
_ORDER: tuple[State, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Check:
    """found: what was seen, in one line; remedy: what mends it, empty for "ok"; values: the numbers behind it."""

    name: str
    state: State
    found: str
    remedy: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def verdict(name: str, well: str, faults: list[tuple[State, str, str]], values: dict[str, Any] | None = None) -> Check:
    """One check out of its faults (state, what was found, remedy): the worst first, or ``well`` where there is none."""
    if not faults:
        return Check(name, "ok", well, values=values or {})
    faults = sorted(faults, key=lambda fault: -_ORDER.index(fault[0]))
    found, remedies = "; ".join(fault[1] for fault in faults), dict.fromkeys(fault[2] for fault in faults)
    return Check(name, faults[0][0], found, " ".join(remedies), values or {})


def one_line(error: object) -> str:
    """The last line of what an error says (of a remote traceback, its reason); its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
