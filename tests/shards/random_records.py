"""Seeded random records that use every beat and rhythm class, for tests of the shards and of what reads them."""

from __future__ import annotations

import numpy as np

from ecgray.databases.record import BEATS, RHYTHMS, Record


def random_record(
    generator: np.random.Generator,
    *,
    record: str,
    patient: str,
    samples: int = 15_000,
    fs: float = 250.0,
    leads: tuple[str, ...] = ("MLII",),
    annotated: bool = True,
    database: str = "random",
) -> Record:
    """A random walk as signal; beats 0.3 to 1.5 s apart; zones with and without gaps, first and last beat included."""
    signal = np.cumsum(generator.integers(-9, 10, (len(leads), samples)), axis=1).clip(-3000, 3000).astype(np.int16)
    beats = np.cumsum(generator.integers(int(0.3 * fs), int(1.5 * fs), samples // int(0.3 * fs) + 1)) - int(0.3 * fs)
    beats = beats[beats < samples] if annotated else beats[:0]
    classes = generator.choice(len(BEATS), len(beats), p=(0.1, 0.6, 0.1, 0.1, 0.1)).astype(np.uint8)
    zones = []
    place = 0
    while place < len(beats):
        last = min(place + int(generator.integers(0, 9)), len(beats) - 1)
        zones.append((beats[place], beats[last] + 1, generator.integers(0, len(RHYTHMS))))
        place = last + 1 + int(generator.integers(0, 4))
    return Record(
        id=record,
        patient=patient,
        database=database,
        fs=fs,
        leads=leads,
        signal=signal,
        gain=np.full(len(leads), 200.0) + np.arange(len(leads)) + generator.integers(0, 3),
        baseline=np.full(len(leads), float(generator.integers(-20, 20))),
        beats=beats,
        beat_classes=classes,
        rhythms=np.array(zones, np.int64).reshape(-1, 3),
        annotated=annotated,
        labels=(("N", "A", "O")[int(generator.integers(0, 3))],),
        attributes={"age": int(generator.integers(20, 90))},
        source_symbols={"N": len(beats)},
    )


def random_records(
    seed: int = 0, *, patients: int = 12, records: int = 3, samples: int = 15_000, leads: tuple[str, ...] = ("MLII",)
) -> list[Record]:
    """``records`` records of each patient, of unequal lengths."""
    generator = np.random.default_rng(seed)
    return [
        random_record(
            generator,
            record=f"p{patient:03d}_s{number:02d}",
            patient=f"p{patient:03d}",
            samples=samples + int(generator.integers(0, samples // 2)),
            leads=leads,
        )
        for patient in range(patients)
        for number in range(records)
    ]
