"""The rules of all tasks as slow loops over one frame, written from the paper and from its published code's reading.

They know nothing of the queries that the tasks use: only positions, classes and zones of one record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from ecgray.databases.record import BEATS, RHYTHMS, Record

Rule = Callable[[Record, int, int], str]


def beat_paper(record: Record, start: int, frame: int) -> str:
    counts: Counter[str] = Counter()
    for sample, kind in zip(record.beats.tolist(), record.beat_classes.tolist(), strict=True):
        if start <= sample < start + frame:
            counts[BEATS[kind]] += 1
    abnormal = [name for name in ("pac", "aberrated", "pvc") if counts[name]]
    if abnormal:
        return max(abnormal, key=lambda name: counts[name])  # the first of equals
    return "normal" if counts["normal"] else "undefined"


def beat_code(record: Record, start: int, frame: int) -> str:
    complete = [
        BEATS[kind]
        for sample, kind in zip(record.beats.tolist(), record.beat_classes.tolist(), strict=True)
        if start <= sample <= start + frame
    ][1:]
    for group in (("pac", "aberrated", "pvc"), ("undefined", "normal")):
        best = max(group, key=complete.count)
        if complete.count(best):
            return best
    return "undefined"


def rhythm_paper(record: Record, start: int, frame: int) -> str:
    samples: Counter[str] = Counter()
    for sample in range(start, start + frame):
        for first, end, kind in record.rhythms.tolist():
            if first <= sample < end:
                samples[RHYTHMS[kind]] += 1
    if samples["afib"] or samples["aflut"]:
        return "afib" if samples["afib"] >= samples["aflut"] else "aflut"
    if samples["noise"] or samples["normal"]:
        return "noise" if samples["noise"] >= samples["normal"] else "normal"
    return "undefined"


def rhythm_code(record: Record, start: int, frame: int) -> str:
    end, labels = start + frame, []
    for sample in record.beats.tolist():
        kind = "undefined"
        for first, stop, number in record.rhythms.tolist():
            if first <= sample < stop:
                kind = RHYTHMS[number]
        labels.append((sample, "undefined" if kind == "other" else kind))
    inside = [(sample, kind) for sample, kind in labels if sample > start]
    reaching = [place for place, (sample, _) in enumerate(inside) if sample >= end]
    if reaching:
        inside = inside[: reaching[0] + 1]
    if not inside:
        return "undefined"
    samples: Counter[str] = Counter()
    before = start
    for place, (sample, kind) in enumerate(inside):
        until = end if place == len(inside) - 1 else sample
        samples[kind] += until - before
        before = until
    for group in (("undefined", "afib", "aflut"), ("noise", "normal")):
        best = max(group, key=lambda name: samples[name])
        if samples[best]:
            return best
    return "undefined"


def rate(beats: list[int], fs: float) -> str:
    if len(beats) < 2:
        return "noise"
    intervals = [Fraction(b - a) / Fraction(fs) for a, b in pairwise(beats)]
    seconds = sum(intervals, Fraction(0)) / len(intervals)
    if seconds == 0:
        return "tachycardia"
    bpm = 60 / seconds
    return "bradycardia" if bpm < 60 else "tachycardia" if bpm > 100 else "normal"


def heart_rate_paper(record: Record, start: int, frame: int) -> str:
    second = round(record.fs)
    return rate([b for b in record.beats.tolist() if start - second <= b < start + frame + second], record.fs)


def heart_rate_code(record: Record, start: int, frame: int) -> str:
    return rate([b for b in record.beats.tolist() if start <= b <= start + frame][1:], record.fs)


@pytest.fixture(scope="session")
def slow_rules() -> dict[tuple[str, str], Rule]:
    """(task, rule) to the slow loop: (record, start, frame size) to a class name."""
    return {
        ("beat", "paper"): beat_paper,
        ("beat", "code"): beat_code,
        ("rhythm", "paper"): rhythm_paper,
        ("rhythm", "code"): rhythm_code,
        ("heart_rate", "paper"): heart_rate_paper,
        ("heart_rate", "code"): heart_rate_code,
    }


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """(beats, classes, rhythms by name, ...) to a record of silence."""

    def make(
        beats: list[int] | np.ndarray = (),
        classes: list[str] | np.ndarray = (),
        rhythms: list[tuple[int, int, str]] = (),
        *,
        samples: int = 4000,
        fs: float = 250.0,
        name: str = "r",
    ) -> Record:
        kinds = [BEATS.index(kind) if isinstance(kind, str) else kind for kind in classes]
        zones = [(a, b, RHYTHMS.index(kind) if isinstance(kind, str) else kind) for a, b, kind in rhythms]
        return Record(
            id=name,
            patient=name,
            database="test",
            fs=fs,
            leads=("I",),
            signal=(np.arange(samples, dtype=np.int64) % 500 - 250).astype(np.int16)[None],
            gain=np.array([200.0]),
            baseline=np.array([0.0]),
            beats=np.array(beats, np.int64),
            beat_classes=np.array(kinds, np.uint8),
            rhythms=np.array(zones, np.int64).reshape(-1, 3),
            annotated=True,
        )

    return make
