"""The detector: positions, and signals it has nothing to say about."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sleepecg import detect_heartbeats

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


def test_long_signals_give_what_sleepecg_gives(mitdb_excerpts: Path) -> None:
    for reference in MitBih().find(mitdb_excerpts):
        if reference.record in ("100", "106", "201", "207"):
            record = MitBih().read(reference)
            signal = (record.signal[0] - record.baseline[0]) / record.gain[0]
            ours, theirs = detect_beats(signal, record.fs), detect_heartbeats(signal, record.fs)
            before_the_end = len(signal) - 2 * record.fs
            assert ours[ours < before_the_end].tolist() == theirs[theirs < before_the_end].tolist()


SHORT = """
import numpy as np
from ecgray.databases.qrs import detect_beats
draw = np.random.default_rng(0)
for fs in (61, 100.5, 250, 300, 360):
    for seconds in (1, 1.04, 1.2, 1.9, 2, 2.1, 5, 10):
        samples = int(np.ceil(seconds * fs))
        # The second has as many waves as the refractory period lets through.
        for signal in (draw.normal(size=samples), np.sin(2 * np.pi * np.arange(samples) / (int(0.2 * fs) + 1))):
            answers = {tuple(detect_beats(signal, fs).tolist()) for _ in range(5)}
            print(fs, samples, *answers)
            assert len(answers) == 1 and max(answers.pop(), default=0) < samples
"""


def test_short_signals_are_answered_from_their_own_memory_alone() -> None:
    """glibc fills what it hands out with a byte, another one in each process, and looks for writes outside of it."""
    told = []
    for options in (
        {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.perturb=17"},
        {"GLIBC_TUNABLES": "glibc.malloc.perturb=85"},
    ):
        done = subprocess.run([sys.executable, "-c", SHORT], env=os.environ | options, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert told[0] == told[1] and told[0].count("\n") == 80
