"""Shard sets of random walks with beats and rhythms, of any size, leads and rate: cheap to make, real to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ecgray.databases.record import BEATS, RHYTHMS, Record
from ecgray.shards.writer import write_shard_set


def write_walks(out: Path, *, leads: int = 1, megabytes: float, samples: int = 1 << 20, fs: float = 250.0) -> Path:
    """A shard set of ``megabytes`` (and 40 records at least) of ``samples`` samples, two records to a patient."""
    draw = np.random.default_rng(0)
    walk = np.cumsum(draw.integers(-12, 13, (leads, samples)), axis=1)
    walk = (walk % 2000 - 1000).astype(np.int16)
    records = []
    for number in range(max(40, int(megabytes * 1e6 / (2 * leads * samples)))):
        beats = np.cumsum(draw.integers(int(0.6 * fs), int(1.1 * fs), int(samples / (0.6 * fs))))
        beats = beats[beats < samples]
        zones = np.arange(0, samples, int(20 * fs))
        records.append(
            Record(
                id=f"r{number:06d}",
                patient=f"p{number // 2:06d}",
                database="walks",
                fs=fs,
                leads=tuple(f"lead{i}" for i in range(leads)),
                signal=np.roll(walk, int(draw.integers(samples)), axis=1),
                gain=np.full(leads, 200.0),
                baseline=np.zeros(leads),
                beats=beats,
                beat_classes=draw.choice(len(BEATS), len(beats), p=[0.02, 0.9, 0.04, 0.01, 0.03]).astype(np.uint8),
                rhythms=np.stack(
                    [zones, np.minimum(zones + int(15 * fs), samples), draw.integers(2, len(RHYTHMS), len(zones))],
                    axis=1,
                ),
                annotated=True,
            )
        )
    write_shard_set(records, out)
    return out
