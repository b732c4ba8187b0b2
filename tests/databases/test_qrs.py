"""The detector: positions, and signals it has nothing to say about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgray.databases import MitBih, RecordRefused
from ecgray.databases.qrs import detect_beats


def test_beats_of_an_excerpt_are_found_within_150_ms(mitdb_excerpts: Path) -> None:
    reference = next(reference for reference in MitBih().find(mitdb_excerpts) if reference.record == "100")
    record = MitBih().read(reference)
    found = detect_beats((record.signal[0] - record.baseline[0]) / record.gain[0], record.fs)
    assert found.dtype == np.int64
    assert (np.diff(found) > 0).all()
    distance = np.abs(record.beats[:, None] - found[None, :]).min(axis=1)
    assert (distance < 0.15 * record.fs).mean() > 0.97
    assert abs(len(found) - len(record.beats)) <= 2


@pytest.mark.parametrize("signal", [np.zeros(0), np.zeros(5000), np.ones(100), np.r_[np.zeros(5000), 1.0, 2.0]])
def test_nothing_is_found_where_nothing_is(signal: np.ndarray) -> None:
    assert detect_beats(signal, 250).shape == (0,)


def test_a_low_rate_is_refused() -> None:
    with pytest.raises(RecordRefused, match="above 60 Hz"):
        detect_beats(np.random.default_rng(0).normal(size=5000), 50)
