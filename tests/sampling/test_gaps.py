"""Gaps of records: no frame touches one, and where there are none nothing is drawn otherwise than before."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from ecgray.errors import EcgrayError
from ecgray.sampling.plan import SamplingConfig, make_plan
from ecgray.sampling.starts import StartTable
from ecgray.shards.archive import open_archive
from ecgray.shards.writer import write_shard_set
from ecgray.tasks import TASKS

GAPS = np.array([[0, 0, 40], [0, 90, 91], [2, 10, 20], [2, 30, 60], [2, 95, 100], [3, 0, 100]])


def allowed(samples, gaps, before, after):
    """(record, start) of every frame that has room, by a slow loop."""
    found = []
    for record, length in enumerate(samples):
        lost = np.zeros(length, bool)
        for _, start, end in gaps[gaps[:, 0] == record]:
            lost[start:end] = True
        for start in range(before, length - after + 1):
            if not lost[start - before : start + after].any():
                found.append((record, start))
    return found


@pytest.mark.parametrize(("before", "after"), [(0, 1), (0, 10), (7, 4), (0, 40)])
@pytest.mark.parametrize("gaps", [GAPS, GAPS[:2], GAPS[2:5]])
def test_every_start_that_has_room_is_drawn_equally_often_and_no_other(before, after, gaps):
    samples = np.full(4, 100)
    expected = allowed(samples, gaps, before, after)
    table = StartTable(np.zeros(4, np.int32), samples, before, after, gaps)
    assert set(table.record.tolist()) == {record for record, _ in expected}
    record, start = table.draw(np.array([0]), 400 * len(expected), np.random.default_rng(0))
    counts = {pair: 0 for pair in expected}
    for pair in zip(record[0].tolist(), start[0].tolist(), strict=True):
        counts[pair] += 1
    assert min(counts.values()) > 300 and max(counts.values()) < 500


def test_apart_draws_records_equally_often_and_starts_in_their_stretches():
    samples, patient = np.full(4, 100), np.zeros(4, np.int32)
    expected = allowed(samples, GAPS, 0, 5)
    table = StartTable(patient, samples, 0, 5, GAPS)
    positive = np.zeros(20_000, np.int64)
    record, start = table.draw_apart(np.array([0]), positive, 2, np.random.default_rng(0), exclude=True)
    assert set(zip(record.ravel().tolist(), start.ravel().tolist(), strict=True)) == {p for p in expected if p[0] != 0}
    assert np.bincount(record.ravel())[[1, 2]] == pytest.approx([20_000, 20_000], rel=0.03)


def test_a_plan_without_gaps_is_the_plan_of_before(random_records, tmp_path):
    """The hash was printed by the code before gaps were known."""
    write_shard_set(random_records.random_records(3), tmp_path / "set")
    archive, digest = open_archive([tmp_path / "set"]), hashlib.sha256()
    sampling = SamplingConfig(frame_size=256, val_fraction=0.25, frames_per_visit=16, pool_patients=3)
    for name in ("beat", "future", "heart_rate"):
        task = TASKS[name](**({"context": 2, "offset": 1, "exclude_record": True} if name == "future" else {}))
        plan = make_plan(archive, sampling, task, 32)
        parts = [*plan.frames(0, 200, range(8)), *plan.validation()]
        if name == "future":
            parts += [*plan.negatives(0, 50, range(8)), *plan.validation_negatives()]
        for part in parts:
            digest.update(np.ascontiguousarray(part, np.int64).tobytes())
    assert digest.hexdigest() == "682a863d12e40e4f157fbd3e6d01e9daae96237a58065c13a82be3d8e9309c32"


@pytest.mark.parametrize("name", ["beat", "future", "heart_rate"])
def test_no_frame_of_a_plan_touches_a_gap(random_records, tmp_path, name):
    draw = np.random.default_rng(0)
    records = []
    for record in random_records.random_records(5):
        edges = np.sort(draw.choice(record.signal.shape[1] // 50, 4, replace=False)) * 50
        records.append(replace(record, gaps=edges.reshape(2, 2).astype(np.int64)))
    write_shard_set(records, tmp_path / "set", shard_mb=0.2)
    archive = open_archive([tmp_path / "set"])
    assert len(archive.gaps) == 2 * len(records)
    by_name = {record.id: record.gaps for record in records}
    for number, identity in enumerate(archive.record_id):
        np.testing.assert_array_equal(archive.gaps[archive.gaps[:, 0] == number, 1:], by_name[identity])
    task = TASKS[name](**({"context": 3, "offset": 1, "negatives": 2} if name == "future" else {}))
    plan = make_plan(archive, SamplingConfig(frame_size=256, val_fraction=0.25), task, 32)
    before, after = task.window(256, archive.fs)
    for record, start in (plan.frames(0, 300, range(8)), plan.validation()):
        assert not archive.in_gap(record, start - before, before + after).any()
    if name == "future":
        record, start, _ = plan.negatives(0, 100, range(8))
        assert not archive.in_gap(record.ravel(), start.ravel(), 256).any()


def test_gaps_that_leave_no_room_are_named(random_records, tmp_path):
    records = [
        replace(record, gaps=np.array([[0, 900], [1100, record.signal.shape[1]]]))
        for record in random_records.random_records(1, patients=3)
    ]
    write_shard_set(records, tmp_path / "set")
    with pytest.raises(EcgrayError, match=r"256 samples for .* between its gaps, got none \(the longest has 200\)"):
        sampling = SamplingConfig(frame_size=256, val_fraction=0.3)
        make_plan(open_archive([tmp_path / "set"]), sampling, TASKS["beat"](), 8)
