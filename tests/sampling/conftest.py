"""A small archive in memory, with the columns and the ``cut`` of the real one, and two tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest


class FakeArchive:
    """Records of given lengths; every sample says where it is: value = (1000 * record + sample) mod 30011."""

    fs = 250.0

    def __init__(self, patient, samples, beat_totals=None, rhythm_samples=None, labels=None, leads=("i",)):
        self.patient = np.asarray(patient, np.int32)
        self.samples = np.asarray(samples, np.int64)
        n = len(self.patient)
        self.leads = tuple(leads)
        self.gaps = np.empty((0, 3), np.int64)
        self.beat_totals = np.zeros((n, 5), np.int64) if beat_totals is None else np.asarray(beat_totals)
        self.rhythm_samples = np.zeros((n, 6), np.int64) if rhythm_samples is None else np.asarray(rhythm_samples)
        self.signal_hash = np.array([f"signal{i}" for i in range(n)], object)
        self.labels = [()] * n if labels is None else labels

    def sample(self, record, lead, index):
        return (1000 * np.asarray(record) + 7 * np.asarray(lead) + np.asarray(index)) % 30011

    def cut(self, record, start, span):
        lead = np.arange(len(self.leads))[None, :, None]
        return self.sample(record[:, None, None], lead, start[:, None, None] + np.arange(span)).astype(np.int16)


@dataclass(frozen=True)
class FakeBeat:
    before: int = 0
    extra: int = 0
    negatives: int = 0

    def window(self, frame_size, fs):
        return self.before, frame_size + self.extra

    def span(self, frame_size):
        return frame_size

    def targets(self, record, start, frame_size, annotations):
        return (record + start) % 5


@dataclass(frozen=True)
class FakeFuture:
    context: int = 3
    offset: int = 2
    negatives: int = 4
    exclude_record: bool = True

    def window(self, frame_size, fs):
        return 0, (self.context + self.offset + 1) * frame_size

    def span(self, frame_size):
        return self.window(frame_size, 0)[1]

    def future_start(self, start, frame_size):
        return start + (self.context + self.offset) * frame_size


@pytest.fixture(scope="session")
def archive() -> FakeArchive:
    """40 patients with 1 to 4 records each, of 300 to 4,000 samples."""
    draw = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), draw.integers(1, 5, 40))
    draw.shuffle(patient)
    return FakeArchive(patient, draw.integers(300, 4000, len(patient)))


@pytest.fixture(scope="session")
def make_archive() -> type[FakeArchive]:
    return FakeArchive


@pytest.fixture(scope="session")
def beat() -> FakeBeat:
    return FakeBeat()


@pytest.fixture(scope="session")
def wide_beat() -> FakeBeat:
    """A task that needs 40 samples around each frame."""
    return FakeBeat(before=20, extra=20)


@pytest.fixture(scope="session")
def future() -> FakeFuture:
    return FakeFuture()
