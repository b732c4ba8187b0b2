"""int16 to the network's input, against a slow loop in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ecgray.sampling.stream import Batch
from ecgray.training.config import DataConfig
from ecgray.training.standardise import Standardise, standardisation_of

RANDOM = np.random.default_rng(0)
ARCHIVE = SimpleNamespace(
    gain=RANDOM.uniform(50, 1000, (6, 2)).astype(np.float32),
    baseline=RANDOM.uniform(-2000, 2000, (6, 2)).astype(np.float32),
    mean_mv=0.01,
    sd_mv=0.3,
)


@pytest.mark.parametrize("slots", [1, 3])
def test_every_slot_has_the_calibration_of_its_own_record(slots: int) -> None:
    signal = RANDOM.integers(-3000, 3000, (5, 2, slots * 7)).astype(np.int16)
    record = RANDOM.integers(0, 6, (5, slots))
    signal.flags.writeable = False  # as blocks of Ray Data are
    batch = Batch(signal, np.zeros(5, np.int64), record[:, 0], np.zeros(5, np.int64), record)
    got = Standardise(ARCHIVE, 0.01, 0.3, torch.device("cpu"))(batch).numpy()
    expected = np.empty(signal.shape)
    for i in range(5):
        for lead in range(2):
            for sample in range(slots * 7):
                source = record[i, sample // 7]
                mv = (float(signal[i, lead, sample]) - ARCHIVE.baseline[source, lead]) / ARCHIVE.gain[source, lead]
                expected[i, lead, sample] = (mv - 0.01) / 0.3
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
    assert got.dtype == np.float32


def test_the_constants_are_the_manifests_or_the_papers() -> None:
    assert standardisation_of(ARCHIVE, DataConfig()) == (0.01, 0.3)
    assert standardisation_of(ARCHIVE, DataConfig(standardisation="icentia11k")) == (0.0018, 1.3711)
