"""Which record goes into which shard: decided before any signal is read, by the sizes of the files alone."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ecgray.databases.record import Reference

_FEWEST = 8
_SMALLEST_MB = 16
"""A database that would not fill eight shards gets smaller ones, so that it too is read in parallel."""


def source_sizes(references: Sequence[Reference]) -> list[int]:
    """Bytes of each record's largest file (its signal); every folder is listed once."""
    folders: dict[Path, dict[str, int]] = {}
    sizes = []
    for reference in references:
        folder = reference.path.parent
        if folder not in folders:
            largest: dict[str, int] = {}
            with os.scandir(folder) as entries:
                for entry in entries:
                    stem = entry.name.rpartition(".")[0]
                    if stem and entry.is_file():
                        largest[stem] = max(largest.get(stem, 0), entry.stat().st_size)
            folders[folder] = largest
        sizes.append(folders[folder].get(reference.path.name, 0))
    return sizes


def lay_out(references: Sequence[Reference], sizes: Sequence[int], shard_mb: float) -> list[range]:
    """Ranges of ``references`` (sorted by patient), one per shard.

    A patient is divided only when he alone fills more than two shards. The result depends on the records and
    ``shard_mb`` alone, never on the number of workers.
    """
    total = max(sum(sizes), 1)
    limit = min(shard_mb, max(total / 1e6 / _FEWEST, _SMALLEST_MB)) * 1e6
    count = math.ceil(total / limit)
    pieces: list[list[int]] = []
    for _, group in groupby(range(len(references)), key=lambda i: references[i].patient):
        patient = list(group)
        pieces += [patient] if sum(sizes[i] for i in patient) <= 2 * limit else [[i] for i in patient]
    starts: list[int] = []
    before, last = 0, -1
    for piece in pieces:  # a piece goes where its middle lies in ``count`` equal parts of all bytes
        weight = sum(sizes[i] for i in piece)
        part = min((2 * before + weight) * count // (2 * total), count - 1)
        if part != last:
            starts.append(piece[0])
        before, last = before + weight, part
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(references)], strict=True)]
