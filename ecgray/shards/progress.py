"""How far an ingest is, on the terminal, and what came of it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ecgray import progress
from ecgray.errors import plain
from ecgray.shards.manifest import Manifest

_REASONS = 5
"""Reasons of refusals that an ingest tells at its end."""


_WHY = 3
"""Reasons that are told where no record is usable."""


class Progress:
    """Records that are read, MB/s of int16 signal, and how many were refused."""

    def __init__(self, records: int, show: bool) -> None:
        self._shown = progress.Progress("ingest", records, "record", show=show)
        self._records, self._mb, self._refused = 0, 0.0, 0
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        self._shown.to(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def record(self, size: int, refused: bool) -> None:
        self.add(int(not refused), size, int(refused))

    def add(self, records: int, size: int, refused: int) -> None:
        self._records += records + refused
        self._mb += size / 1e6
        self._refused += refused
        elapsed = max(time.monotonic() - self._began, 1e-3)
        self._shown.say(refused=f"{self._refused} refused", speed=f"{self._mb / elapsed:.0f} MB/s")
        self._shown.to(self._records)


def outcome(manifest: Manifest, refused: Sequence[tuple[str, str]]) -> str:
    """What an ingest says at its end: records and patients, whose number shows whether they were told apart, and how
    many records were refused for which reason, the most frequent first. ``refused``: (record, reason)."""
    hours = f"{manifest.hours:,.1f}" if manifest.hours >= 1 else f"{manifest.hours:.2g}"
    records = f"{manifest.records:,} record{'s' if manifest.records != 1 else ''}"
    patients = f"{manifest.patients:,} patient{'s' if manifest.patients != 1 else ''}"
    reasons = counted_reasons(refused)
    lines = [f"{records} of {patients}, {hours} h; {manifest.refused:,} refused{':' if reasons else ''}"]
    lines += [f"{count:>7,}  {reason}" for reason, count in reasons[:_REASONS]]
    if others := reasons[_REASONS:]:
        lines.append(f"{sum(count for _, count in others):>7,}  for other reasons; 'ecgray inspect' lists all")
    return "\n".join(lines)


def why(refused: Sequence[tuple[str, str]], advice: Mapping[str, str] | None = None) -> str:
    """How many records were refused and why, the most frequent reason first, as part of a sentence; ``advice``: how to
    go on, by the reason."""
    reasons = counted_reasons(refused)
    first: dict[str, str] = {}
    for record, reason in refused:
        first.setdefault(without_name(record, reason), record)
    listed = [f"{count:,} with '{reason}' (as {plain(first[reason])})" for reason, count in reasons[:_WHY]]
    if others := sum(count for _, count in reasons[_WHY:]):
        listed.append(f"{others:,} with other reasons")
    told = f"{len(refused):,} refused" + (f": {', '.join(listed)}" if listed else "")
    further = (advice or {}).get(reasons[0][0]) if reasons else None
    return f"{told}; {further}" if further else told


def counted_reasons(refused: Iterable[tuple[str, str]]) -> list[tuple[str, int]]:
    """(reason, records) of (record, reason), the most frequent first, of equally frequent ones the first met."""
    return Counter(without_name(record, reason) for record, reason in refused).most_common()


def without_name(record: str, reason: str) -> str:
    """The reason with a star for the name of the record's files, so that it is that of other records too."""
    return re.sub(rf"(?<!\w){re.escape(record.rsplit('/', 1)[-1])}(?=\.\w)", "*", reason)
