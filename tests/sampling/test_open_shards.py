"""How many shards the frames of a block lie in: what the node's cache must have room for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ecgray.sampling.plan import SamplingConfig, make_plan
from ecgray.tasks import TASKS


class Records(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.samples)


def test_pools_bound_the_shards_of_a_block() -> None:
    """One shard a patient, the most that there can be: a pool's patients a lane, and twice that where pools meet."""
    patients = 600
    archive: Any = Records(
        patient=np.arange(patients, dtype=np.int32),
        samples=np.full(patients, 2**20),
        annotated=np.ones(patients, bool),
        signal_hash=np.array([str(number) for number in range(patients)], object),
        labels=[("N",)] * patients,
        beat_totals=np.ones((patients, 5), int),
        rhythm_samples=np.ones((patients, 6), int),
        fs=250.0,
        leads=("I",),
        patient_names=[str(patient) for patient in range(patients)],
        database=np.full(patients, "x", object),
        gaps=np.empty((0, 3), np.int64),
    )
    sampling = SamplingConfig(frame_size=2048, pool_patients=16, lanes=8)
    plan = make_plan(archive, sampling, TASKS["beat"](), 32)
    steps_of_a_pool = 16 * sampling.frames_per_visit // plan.lane_batch
    for first in range(0, 3 * steps_of_a_pool, 101):
        for lanes in ([3], list(range(8))):
            record, _ = plan.frames(first, first + 187, lanes)
            meet = first // steps_of_a_pool != (first + 186) // steps_of_a_pool
            assert len(np.unique(record)) <= 16 * len(lanes) * (1 + meet)
