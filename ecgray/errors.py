"""The one kind of error that a user can cause."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

_AS_NEAR = 0.1
"""How much less alike than the nearest name another may be that is told beside it."""


class EcgrayError(ValueError):
    """What must hold, what was got and how to go on, in one line.

    The command line prints the line and exits with code 2; from Python it is a ``ValueError``.
    """


class Passing(EcgrayError):
    """What may be otherwise in a minute by itself: a cluster has lost a node, a process is about to end."""


def quoted(got: object, longest: int = 100) -> str:
    """``got`` as one line that cannot grow: its ``repr``, cut after escaping (a byte may take four characters)."""
    line = repr(got)
    return line if len(line) <= longest else f"{line[:longest]}..."


def plain(name: str, longest: int = 100) -> str:
    """A name from outside, of a file or in one, as part of a line: what cannot be printed is escaped."""
    return repr(name)[1:-1][:longest]


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """ "1 header", "2,000 headers"."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def unknown(kind: str, got: str, known: Iterable[str], see: str | None = None) -> EcgrayError:
    """An error for a name that is in no table, with the near matches; when none is near, with the command that lists
    the names (``see``), or all of them."""
    names = sorted(known)
    near = get_close_matches(got[:100], names, n=3, cutoff=0.5)
    hint = f"see {see}." if see else f"known are {', '.join(names)}."
    if near:
        best = SequenceMatcher(None, near[0], got[:100]).ratio()
        near = get_close_matches(got[:100], near, n=3, cutoff=best - _AS_NEAR)
        hint = f"did you mean {' or '.join(near)}?"
    return EcgrayError(f"The {kind} must be a known name, got {quoted(got)}; {hint}")
