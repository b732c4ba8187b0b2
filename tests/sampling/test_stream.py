"""Batches: what the plan says, cut and labelled, from any step on; the local backend and the common part."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ecgray.sampling.local as local
from ecgray.errors import EcgrayError
from ecgray.sampling.plan import SamplingConfig, make_plan
from ecgray.sampling.ray_data import _batches, _columns
from ecgray.sampling.stream import cut_block, open_stream, validation_batches

SMALL = SamplingConfig(frame_size=128, frames_per_visit=16, pool_patients=8, val_fraction=0.2, val_frames_per_patient=8)
BATCH = 32
NAMES = ("signal", "target", "record", "start", "slot_record")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few steps, so that some tens of steps pass through many."""
    monkeypatch.setattr(local, "BLOCK_BYTES", 3 * BATCH * 128 * 2)


def stream(archive, plan, task, first, last, rank=0, world=1):
    steps = {"first_step": first, "last_step": last}
    return list(open_stream(archive, plan, task, backend="local", **steps, rank=rank, world=world))


def equal(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        for name in NAMES:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert getattr(a, name).dtype == getattr(b, name).dtype


def test_a_batch_holds_the_frames_of_its_step(archive, beat):
    plan = make_plan(archive, SMALL, beat, BATCH)
    batches = stream(archive, plan, beat, 5, 25)
    assert len(batches) == 20
    for step, batch in enumerate(batches, start=5):
        record, start = plan.frames(step, step + 1, range(8))
        np.testing.assert_array_equal(batch.record, record)
        np.testing.assert_array_equal(batch.start, start)
        np.testing.assert_array_equal(batch.target, (record + start) % 5)
        np.testing.assert_array_equal(batch.slot_record, record[:, None])
        assert batch.signal.shape == (BATCH, 1, 128) and batch.signal.dtype == np.int16
        for i in range(BATCH):
            expected = [archive.sample(record[i], 0, start[i] + t) for t in range(128)]
            np.testing.assert_array_equal(batch.signal[i, 0], expected)


@pytest.mark.parametrize("leads", [("i",), ("i", "ii", "v1")])
def test_future_frames_as_a_slow_loop(make_archive, future, leads):
    draw = np.random.default_rng(2)
    archive = make_archive(np.arange(24) // 2, draw.integers(900, 4000, 24), leads=leads)
    plan = make_plan(archive, SMALL, future, BATCH)
    for step, batch in enumerate(stream(archive, plan, future, 3, 9), start=3):
        record, start = plan.frames(step, step + 1, range(8))
        negative, negative_start, place = plan.negatives(step, step + 1, range(8))
        assert batch.signal.shape == (BATCH, len(leads), 8 * 128)
        np.testing.assert_array_equal(batch.target, place)
        for i in range(BATCH):
            slots = [(record[i], start[i] + 128 * j) for j in range(3)]
            candidates = list(zip(negative[i], negative_start[i], strict=True))
            candidates.insert(place[i], (record[i], start[i] + (3 + 2) * 128))
            slots += candidates
            assert batch.slot_record[i].tolist() == [r for r, _ in slots]
            for lead in range(len(leads)):
                expected = np.concatenate([archive.sample(r, lead, s + np.arange(128)) for r, s in slots])
                np.testing.assert_array_equal(batch.signal[i, lead], expected)


@pytest.mark.parametrize("kind", ["beat", "future"])
@pytest.mark.parametrize("world", [1, 3])
def test_a_resumed_stream_is_the_rest_of_the_whole_one(archive, request, kind, world):
    task = request.getfixturevalue(kind)
    plan = make_plan(archive, SMALL, task, BATCH)
    for rank in range(world):
        whole = stream(archive, plan, task, 0, 40, rank, world)
        for first in (1, 17, 39):
            again = make_plan(archive, SMALL, task, BATCH)
            equal(stream(archive, again, task, first, 40, rank, world), whole[first:])


def test_block_size_and_threads_do_not_matter(archive, beat, monkeypatch):
    plan = make_plan(archive, SMALL, beat, BATCH)
    whole = stream(archive, plan, beat, 0, 40)
    for block_bytes, threads, ahead in ((1, 1, 1), (1 << 30, 1, 1), (5 * BATCH * 256, 3, 7)):
        for name, value in (("BLOCK_BYTES", block_bytes), ("THREADS", threads), ("AHEAD", ahead)):
            monkeypatch.setattr(local, name, value)
        equal(stream(archive, plan, beat, 0, 40), whole)


def test_no_steps_give_no_batches(archive, beat, future):
    for task in (beat, future):
        plan = make_plan(archive, SMALL, task, BATCH)
        assert stream(archive, plan, task, 7, 7) == []


def threads_of_streams():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ecgray-stream")]


def test_threads_end_with_the_iterator(archive, beat):
    plan = make_plan(archive, SMALL, beat, BATCH)
    batches = open_stream(archive, plan, beat, backend="local", first_step=0, last_step=10**9)
    next(batches)
    assert threads_of_streams()
    batches.close()
    assert not threads_of_streams()


def test_blocks_ahead_are_bounded(archive, beat, monkeypatch):
    calls = []
    plan = make_plan(archive, SMALL, beat, BATCH)
    monkeypatch.setattr(local, "cut_block", lambda *arguments: calls.append(arguments[3]) or cut_block(*arguments))
    batches = open_stream(archive, plan, beat, backend="local", first_step=0, last_step=10**9)
    for _ in range(3):
        next(batches)
    batches.close()
    assert len(calls) <= 1 + local.AHEAD


def test_an_error_in_a_thread_reaches_the_consumer_at_its_step(archive, beat, monkeypatch):
    plan = make_plan(archive, SMALL, beat, BATCH)

    def cut(*arguments):
        if arguments[3] >= 6:
            raise EcgrayError("a shard is gone")
        return cut_block(*arguments)

    monkeypatch.setattr(local, "cut_block", cut)
    got = []
    with pytest.raises(EcgrayError, match="a shard is gone"):
        got.extend(iter_into(got, open_stream(archive, plan, beat, backend="local", first_step=0, last_step=50)))
    assert len(got) == 6
    assert not threads_of_streams()


def iter_into(got, batches):
    for batch in batches:
        got.append(batch)
    return []


def test_unknown_backend(archive, beat):
    plan = make_plan(archive, SMALL, beat, BATCH)
    with pytest.raises(EcgrayError, match="did you mean local"):
        open_stream(archive, plan, beat, backend="loca", first_step=0, last_step=1)


def test_the_local_stream_imports_no_ray_and_no_torch():
    script = "import sys, ecgray.sampling.local, ecgray.sampling.ray_data; print({'ray', 'torch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


@pytest.mark.parametrize("kind", ["beat", "future"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_rank_validates_a_stretch(archive, request, kind, world):
    """Rank after rank they are all frames in their order, in stretches of one length but for a frame."""
    task = request.getfixturevalue(kind)
    plan = make_plan(archive, SMALL, task, BATCH)
    record, start = plan.validation()
    seen = [list(validation_batches(archive, plan, task, 10, rank, world)) for rank in range(world)]
    lengths = [sum(map(len, batches)) for batches in seen]
    assert max(lengths) - min(lengths) <= 1 and all(len(batch) == 10 for batches in seen for batch in batches[:-1])
    every = [batch for batches in seen for batch in batches]
    together = [np.concatenate([getattr(batch, name) for batch in every]) for name in ("record", "start", "target")]
    target = plan.validation_negatives()[2] if task.negatives else (record + start) % 5
    for got, expected in zip(together, (record, start, target), strict=True):
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=80)
@given(data=st.data(), first=st.integers(0, 30), steps=st.integers(1, 12))
def test_ray_batches_whatever_the_blocks(archive, beat, data, first, steps):
    """Ray Data may cut its blocks anywhere: the batches stay the same."""
    plan = make_plan(archive, SMALL, beat, BATCH)
    whole = cut_block(archive, plan, beat, first, first + steps, range(8))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=9)))
    edges = [0, *cuts, len(whole)]
    blocks = []
    for a, b in pairwise(edges):
        blocks.append(_columns(whole.rows(a, b), first * BATCH + a, False))
    expected = [whole.rows(row, row + BATCH) for row in range(0, len(whole), BATCH)]
    equal(list(_batches(iter(blocks), BATCH, first * BATCH, (first + steps) * BATCH)), expected)


def test_ray_blocks_out_of_order_are_noticed(archive, beat):
    plan = make_plan(archive, SMALL, beat, BATCH)
    block = cut_block(archive, plan, beat, 4, 5, range(8))
    with pytest.raises(RuntimeError, match="gave frame 128 where frame 96 is due"):
        list(_batches(iter([_columns(block, 128, False)]), BATCH, 96, 128))


@pytest.mark.parametrize("missing", [1, BATCH])
def test_ray_blocks_that_end_too_early_are_noticed(archive, beat, missing):
    plan = make_plan(archive, SMALL, beat, BATCH)
    block = cut_block(archive, plan, beat, 0, 3, range(8))
    batches = _batches(iter([_columns(block.rows(0, 3 * BATCH - missing), 0, False)]), BATCH, 0, 3 * BATCH)
    assert [len(next(batches)) for _ in range(2)] == [BATCH, BATCH]
    with pytest.raises(RuntimeError, match=f"ended at frame {3 * BATCH - missing} where frame {3 * BATCH} is due"):
        next(batches)
