"""The plan: same frames for any number of workers, from any step on, uniform in time and over patients."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ecgray.errors import EcgrayError
from ecgray.sampling.plan import SamplingConfig, make_plan

SMALL = SamplingConfig(frame_size=256, frames_per_visit=16, pool_patients=8, val_fraction=0.2, val_frames_per_patient=8)
BATCH = 32


def frames_of_step(plan, step, world):
    parts = [plan.frames(step, step + 1, plan.lanes_of(rank, world)) for rank in range(world)]
    return Counter(pair for record, start in parts for pair in zip(record.tolist(), start.tolist(), strict=True))


def test_a_step_has_the_same_frames_for_any_number_of_workers(archive, beat):
    plan = make_plan(archive, SMALL, beat, BATCH)
    for step in (0, 1, 7, 31, 32, 1000):
        alone = frames_of_step(plan, step, 1)
        assert alone.total() == BATCH
        for world in (2, 3, 4, 8):
            assert frames_of_step(plan, step, world) == alone


def test_negatives_travel_with_their_frames_for_any_number_of_workers(archive, future):
    plan = make_plan(archive, SMALL, future, BATCH)

    def step(number, world):
        together = Counter()
        for rank in range(world):
            lanes = plan.lanes_of(rank, world)
            columns = (*plan.frames(number, number + 1, lanes), *plan.negatives(number, number + 1, lanes))
            together.update(map(str, zip(*(column.tolist() for column in columns), strict=True)))
        return together

    for number in (0, 5, 40):
        for world in (2, 3, 4, 8):
            assert step(number, world) == step(number, 1)


@pytest.fixture(scope="module")
def module_plan(archive, future):
    plan = make_plan(archive, SMALL, future, BATCH)
    return plan, plan.frames(0, 441, range(8)), plan.negatives(0, 441, range(8))


@settings(max_examples=60)
@given(first=st.integers(0, 400), length=st.integers(0, 40), data=st.data())
def test_any_stretch_is_a_part_of_the_whole(module_plan, first, length, data):
    plan, frames, negatives = module_plan
    rank = data.draw(st.integers(0, 2))
    lanes = plan.lanes_of(rank, 3)
    rows = np.arange(441 * BATCH).reshape(441, 8, -1)[first : first + length, list(lanes)].ravel()
    fresh = pickle.loads(pickle.dumps(plan))
    for one, whole in zip(fresh.frames(first, first + length, lanes), frames, strict=True):
        np.testing.assert_array_equal(one, whole[rows])
    for one, whole in zip(plan.negatives(first, first + length, lanes), negatives, strict=True):
        np.testing.assert_array_equal(one, whole[rows])


def test_order_of_consumption_as_a_slow_loop(archive, beat):
    plan = make_plan(archive, SMALL, beat, BATCH)
    lanes = (1, 4, 7)
    expected = []
    for step in range(29, 36):
        for lane in lanes:
            for position in range(step * 4, step * 4 + 4):
                pool, place = divmod(position, plan.pool_frames)
                record, start = make_plan(archive, SMALL, beat, BATCH)._pool(lane, pool)
                expected.append((record[place], start[place]))
    assert list(zip(*plan.frames(29, 36, lanes), strict=True)) == expected


def test_a_pool_alone_equals_the_pool_in_sequence(archive, future):
    plan = make_plan(archive, SMALL, future, BATCH)
    for pool in range(12):
        in_sequence = (*plan._pool(3, pool), *plan._negatives_of_pool(3, pool))
        alone = make_plan(archive, SMALL, future, BATCH)
        for one, two in zip(in_sequence, (*alone._pool(3, pool), *alone._negatives_of_pool(3, pool)), strict=True):
            np.testing.assert_array_equal(one, two)


def test_every_patient_is_visited_once_a_pass(archive, beat):
    plan = make_plan(archive, SMALL, beat, BATCH)
    patients, pools = len(plan.train_patients), 20
    of_lanes = [np.concatenate([plan.pool_patients(lane, k) for k in range(pools)]) for lane in range(8)]
    visits = np.stack(of_lanes, axis=1)
    passes = visits.size // patients
    orders = visits.ravel()[: passes * patients].reshape(passes, patients)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(plan.train_patients, (passes, 1)))
    assert len({tuple(order) for order in orders.tolist()}) == passes


def test_every_visit_gives_its_frames(archive, beat):
    plan = make_plan(archive, SMALL, beat, BATCH)
    record, _ = plan._pool(2, 3)
    given = Counter(archive.patient[record].tolist())
    visits = Counter(plan.pool_patients(2, 3).tolist())
    assert given == {patient: 16 * count for patient, count in visits.items()}


def test_frames_hold_the_window_and_reach_both_ends(archive, wide_beat):
    plan = make_plan(archive, SMALL, wide_beat, BATCH)
    record, start = plan.frames(0, 3000, range(8))
    last = archive.samples[record] - 256 - 20
    assert (start >= 20).all() and (start <= last).all()
    assert (start == 20).any() and (start == last).any()
    long_enough = archive.samples >= 256 + 40
    assert long_enough[record].all()
    assert set(archive.patient[record].tolist()) == set(plan.train_patients.tolist())
    assert set(np.unique(record)) == set(np.flatnonzero(long_enough & np.isin(archive.patient, plan.train_patients)))


def test_frames_are_uniform_in_time(make_archive, beat):
    samples = np.array([5000, 20_000, 50_000, 300, 9000, 31_000, 12_000, 12_000])
    archive = make_archive([0, 0, 0, 0, 1, 1, 2, 3], samples)
    plan = make_plan(archive, SamplingConfig(frame_size=256, val_fraction=0.25), beat, BATCH)
    record, start = plan.frames(0, 2000, range(8))
    starts = samples - 256 + 1
    for patient in plan.train_patients:
        own = np.flatnonzero((archive.patient == patient) & (starts > 0))
        counts = np.array([(record == r).sum() for r in own])
        if len(own) > 1:
            assert chisquare(counts, counts.sum() * starts[own] / starts[own].sum()).pvalue > 1e-3
        for r in own[counts > 500]:
            deciles = np.bincount(start[record == r] * 10 // starts[r], minlength=10)
            edges = np.array([np.ceil(k * starts[r] / 10) for k in range(11)])
            assert chisquare(deciles, deciles.sum() * np.diff(edges) / starts[r]).pvalue > 1e-3


def test_frames_are_mixed_over_patients(archive, beat):
    """Frames of one patient are spread over a pool, not side by side."""
    plan = make_plan(archive, SMALL, beat, BATCH)
    record, _ = plan._pool(0, 0)
    side_by_side = (np.diff(archive.patient[record]) == 0).mean()
    assert side_by_side < 3 / SMALL.pool_patients


def test_negatives_are_uniform_over_the_pools_records_and_leave_out_the_own(make_archive, future):
    draw = np.random.default_rng(1)
    patient = np.repeat(np.arange(10), 3)
    archive = make_archive(patient, draw.integers(1600, 4000, 30))
    sampling = SamplingConfig(frame_size=256, pool_patients=16, frames_per_visit=64, lanes=1, val_fraction=0.2)
    plan = make_plan(archive, sampling, future, 1024)
    record, _ = plan.frames(0, 20, [0])
    negative, negative_start, place = plan.negatives(0, 20, [0])
    assert negative.shape == negative_start.shape == (20 * 1024, 4)
    assert not (negative == record[:, None]).any()
    assert ((negative_start >= 0) & (negative_start + 256 <= archive.samples[negative])).all()
    assert np.isin(archive.patient[negative], plan.train_patients).all()
    assert chisquare(np.bincount(place, minlength=5)).pvalue > 1e-3
    own = np.flatnonzero(np.isin(patient, plan.train_patients))
    for positive in own:
        others = own[own != positive]
        counts = np.bincount(negative[record == positive].ravel(), minlength=30)[others]
        assert chisquare(counts).pvalue > 1e-4
    share = negative_start / (archive.samples[negative] - 255)
    assert chisquare(np.histogram(share, 10, (0, 1))[0]).pvalue > 1e-3


def test_negatives_come_from_the_patients_of_the_pool(archive, future):
    plan = make_plan(archive, SMALL, future, BATCH)
    for pool in range(5):
        negative, _, _ = plan._negatives_of_pool(1, pool)
        assert set(archive.patient[negative].ravel().tolist()) <= set(plan.pool_patients(1, pool).tolist())


def test_negatives_include_the_own_record_without_exclusion_and_where_it_is_the_only_one(make_archive, future):
    archive = make_archive([0, 1], [4000, 4000])
    sampling = SamplingConfig(frame_size=256, val_fraction=0.5)
    plan = make_plan(archive, sampling, future, 8)
    record, _ = plan.frames(0, 10, range(8))
    assert (plan.negatives(0, 10, range(8))[0] == record[:, None]).all()
    archive = make_archive(np.arange(10), [4000] * 10)
    plan = make_plan(archive, SMALL, replace(future, exclude_record=False), BATCH)
    record, _ = plan.frames(0, 50, range(8))
    assert (plan.negatives(0, 50, range(8))[0] == record[:, None]).any()


def test_validation_is_fixed_and_of_other_patients(archive, future):
    plan = make_plan(archive, SMALL, future, BATCH)
    again = make_plan(archive, SMALL, future, 4 * BATCH)
    again.frames(3, 9, range(8))
    both = [p.validation() + p.validation_negatives() for p in (plan, again)]
    for one, two in zip(*both, strict=True):
        np.testing.assert_array_equal(one, two)
    record, _ = plan.validation()
    counts = Counter(archive.patient[record].tolist())
    assert counts == {patient: 8 for patient in plan.val_patients.tolist()}
    assert not set(plan.train_patients.tolist()) & set(plan.val_patients.tolist())
    negative, start, place = plan.validation_negatives()
    assert negative.shape == start.shape == (len(record), 4) and place.shape == (len(record),)
    assert np.isin(archive.patient[negative], plan.val_patients).all()
    assert not (negative == record[:, None]).any()


def test_seed_changes_everything_and_nothing_else_does(archive, beat):
    one, two = (make_plan(archive, replace(SMALL, seed=seed), beat, BATCH) for seed in (0, 1))
    assert not np.array_equal(one.frames(0, 9, range(8))[1], two.frames(0, 9, range(8))[1])
    assert not np.array_equal(one.val_patients, two.val_patients)
    same = make_plan(archive, replace(SMALL, frames_per_patient=1), beat, BATCH)
    np.testing.assert_array_equal(one.frames(0, 9, range(8)), same.frames(0, 9, range(8)))


def test_the_hash_seed_of_python_does_not_matter(tmp_path):
    script = (
        "import numpy as np, hashlib\n"
        "from types import SimpleNamespace as S\n"
        "from ecgray.sampling.plan import SamplingConfig, make_plan\n"
        "n = 60\n"
        "labels = [('A',) if i % 3 else ('N', 'O') for i in range(n)]\n"
        "a = S(fs=250.0, patient=np.arange(n, dtype=np.int32) // 2, samples=np.full(n, 3000), labels=labels,\n"
        "      beat_totals=np.eye(5, dtype=np.int64)[np.arange(n) % 5], rhythm_samples=np.zeros((n, 6), np.int64),\n"
        "      signal_hash=np.array([str(i) for i in range(n)], object), gaps=np.empty((0, 3), np.int64))\n"
        "t = S(negatives=2, exclude_record=True, window=lambda f, fs: (0, f))\n"
        "p = make_plan(a, SamplingConfig(frame_size=256, val_fraction=0.3), t, 32)\n"
        "parts = (p.val_patients, *p.frames(5, 50, range(8)), *p.negatives(5, 50, range(8)), *p.validation())\n"
        "print(hashlib.sha256(b''.join(x.tobytes() for x in parts)).hexdigest())\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1


def test_steps_per_budget(archive, beat):
    plan = make_plan(archive, SamplingConfig(frame_size=256, frames_per_patient=100), beat, BATCH)
    assert plan.steps_per_budget == len(plan.train_patients) * 100 // BATCH
    assert make_plan(archive, SamplingConfig(frame_size=256, frames_per_patient=1), beat, 64).steps_per_budget == 1


def test_a_million_records_cost_an_index(make_archive, beat):
    """No history and no list of frames: far steps come from the same small state."""
    n = 1_000_000
    archive = make_archive(np.arange(n) // 25, np.full(n, 1_048_577), labels=[()] * n)
    plan = make_plan(archive, SamplingConfig(), beat, 256)
    record, start = plan.frames(10**9, 10**9 + 32, range(8))
    assert len(record) == 8192 and len(np.unique(archive.patient[record])) > 120  # of 8 x 16
    assert start.max() > 2**19


@pytest.mark.parametrize("batch", [0, 4, 12, -8])
def test_a_batch_that_lanes_cannot_share_is_refused(archive, beat, batch):
    with pytest.raises(EcgrayError, match=r"multiple of sampling\.lanes, got a batch of"):
        make_plan(archive, SMALL, beat, batch)


def test_records_that_are_all_too_short_are_refused(archive, beat, make_archive):
    with pytest.raises(EcgrayError, match=r"must hold 5000 samples .*the longest has 39\d\d"):
        make_plan(archive, SamplingConfig(frame_size=5000), beat, BATCH)
    with pytest.raises(EcgrayError, match="the longest has 0"):
        make_plan(make_archive([], []), SMALL, beat, BATCH)


def test_patients_without_a_long_enough_record_stand_on_neither_side(make_archive, beat):
    archive = make_archive([0, 1, 2, 2, 3, 4], [500, 100, 100, 256, 255, 900])
    plan = make_plan(archive, SamplingConfig(frame_size=256, val_fraction=0.4), beat, 8)
    assert sorted([*plan.train_patients, *plan.val_patients]) == [0, 2, 4]


def test_more_workers_than_lanes_are_refused(archive, beat):
    with pytest.raises(EcgrayError, match="at most as many workers as lanes, got 9 workers"):
        make_plan(archive, SMALL, beat, BATCH).lanes_of(0, 9)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frame_size", 0),
        ("lanes", 0),
        ("val_fraction", 0.0),
        ("val_fraction", 1.0),
        ("seed", -1),
        ("seed", 2**64),
        ("frame_size", 10**13),
        ("val_frames_per_patient", 10**9),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(EcgrayError, match=rf"sampling\.{field} must"):
        SamplingConfig(**{field: value})


@pytest.mark.parametrize("field", ["frames_per_visit", "pool_patients"])
def test_a_pool_beyond_memory_is_refused(field):
    with pytest.raises(EcgrayError, match=rf"A pool of .*{field}.* must hold at most 10000000 frames"):
        SamplingConfig(**{field: 10**10})
