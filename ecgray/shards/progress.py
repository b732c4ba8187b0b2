"""How far an ingest is, on the terminal, and what came of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tqdm import tqdm

from ecgray.errors import plain
from ecgray.shards.manifest import Manifest

_REASONS = 5
"""Reasons of refusals that an ingest tells at its end."""


_WHY = 3
"""Reasons that are told where no record is usable."""


class Progress:
    """A bar with records/s and MB/s of int16 signal."""

    def __init__(self, records: int, show: bool) -> None:
        self._bar = tqdm(total=records, unit=" records", desc="ingest", disable=not show, mininterval=0.5)
        self._mb = 0.0
        self._refused = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def record(self, size: int, refused: bool) -> None:
        self.add(int(not refused), size, int(refused))

    def add(self, records: int, size: int, refused: int) -> None:
        self._mb += size / 1e6
        self._refused += refused
        elapsed = max(self._bar.format_dict["elapsed"], 1e-3) if not self._bar.disable else 1.0
        self._bar.set_postfix_str(f"{self._mb / elapsed:.0f} MB/s, {self._refused} refused", refresh=False)
        self._bar.update(records + refused)


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
