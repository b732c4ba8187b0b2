"""The prepared array against one record at a time, in float64 and without short cuts."""

from __future__ import annotations

from math import gcd
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from scipy.signal import resample_poly

from ecgray.finetuning.prepare import Preprocessing, prepare
from ecgray.shards.archive import open_archive
from ecgray.shards.resample import resampling_ratio
from tests.finetuning.conftest import make_records, write_shards


@pytest.fixture(scope="module")
def two_leads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = make_records({"N": 8, "A": 6}, fs=300.0, leads=2)
    return write_shards(tmp_path_factory.mktemp("two") / "shards", records)


@pytest.mark.parametrize("padding", ["before", "after"])
@pytest.mark.parametrize("fs, seconds", [(300, 10), (250, 10), (250, 30), (128, 9.5), (250, 2)])
def test_equals_a_slow_loop(two_leads: Path, fs: int, seconds: float, padding: Literal["before", "after"]) -> None:
    archive = open_archive([two_leads])
    length = round(seconds * fs)
    how = Preprocessing(mean_mv=0.05, sd_mv=0.7, fs=fs, length_samples=length, padding=padding)
    index = np.random.default_rng(0).permutation(len(archive))[:9]
    found = prepare(archive, index, how)
    assert found.dtype == np.float32 and found.shape == (9, 2, length)
    divisor = gcd(fs, 300)
    for place, record in enumerate(index):
        standardised = (archive.signal_mv(int(record)).astype(np.float64) - 0.05) / 0.7
        for lead, signal in enumerate(standardised):
            at_rate = resample_poly(signal, fs // divisor, 300 // divisor)
            expected = np.zeros(length)
            if padding == "before":
                kept = at_rate[-length:]
                expected[length - len(kept) :] = kept
            else:
                kept = at_rate[:length]
                expected[: len(kept)] = kept
            assert np.allclose(found[place, lead], expected, atol=2e-5)


def test_ratio() -> None:
    assert (resampling_ratio(300, 250).numerator, resampling_ratio(300, 250).denominator) == (5, 6)
    assert resampling_ratio(250, 128) == resampling_ratio(500, 256)


def test_nothing_to_prepare(two_leads: Path) -> None:
    how = Preprocessing(mean_mv=0, sd_mv=1, fs=250, length_samples=100)
    assert prepare(open_archive([two_leads]), np.empty(0, np.int64), how).shape == (0, 2, 100)
