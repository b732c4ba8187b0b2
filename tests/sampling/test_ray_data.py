"""The Ray Data backend: the local stream's batches to the last bit, from any step on, and no silent waiting."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ecgray.databases.record import Record
from ecgray.errors import EcgrayError
from ecgray.sampling import ray_data
from ecgray.sampling.plan import SamplingConfig, make_plan
from ecgray.sampling.stream import open_stream
from ecgray.shards.archive import open_archive
from ecgray.shards.writer import write_shard_set
from ecgray.tasks import Beat, FuturePrediction

SAMPLING = SamplingConfig(frame_size=256, frames_per_visit=16, pool_patients=4, lanes=4, val_fraction=0.25)
BATCH = 32


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Twelve patients, two leads, in shards of one patient each."""
    draw = np.random.default_rng(0)
    records = []
    for number in range(24):
        samples = int(draw.integers(4000, 9000))
        beats = np.arange(50, samples, 190)
        records.append(
            Record(
                id=f"r{number:02d}",
                patient=f"p{number // 2:02d}",
                database="walks",
                fs=250.0,
                leads=("i", "ii"),
                signal=np.cumsum(draw.integers(-5, 6, (2, samples)), axis=1).astype(np.int16),
                gain=np.full(2, 200.0),
                baseline=np.zeros(2),
                beats=beats,
                beat_classes=draw.integers(0, 5, len(beats)).astype(np.uint8),
                annotated=True,
            )
        )
    out = tmp_path_factory.mktemp("walks") / "shards"
    write_shard_set(records, out, shard_mb=0.02)
    return open_archive([out])


@pytest.mark.parametrize("task", [Beat(), FuturePrediction(context=3, offset=2, negatives=4)], ids=["beat", "future"])
def test_both_backends_are_equal_to_the_last_bit(cluster, walks, task, monkeypatch):
    """Through many blocks, tasks and datasets, from step 3 on, on one of three ranks, with a ragged end."""
    row_bytes = 2 * 2 * 256 * (8 if task.negatives else 1)
    monkeypatch.setattr(ray_data, "BLOCK_BYTES", 4 * 16 * row_bytes)
    monkeypatch.setattr(ray_data, "BLOCKS_PER_TASK", 3)
    monkeypatch.setattr(ray_data, "TASKS_PER_DATASET", 2)
    plan = make_plan(walks, SAMPLING, task, BATCH)

    def batches(backend, first):
        stream = open_stream(walks, plan, task, backend=backend, first_step=first, last_step=48, rank=0, world=3)
        return list(stream)

    local, ray = batches("local", 3), batches("ray", 3)
    assert len(local) == len(ray) == 45
    for one, two in zip(local, ray, strict=True):
        for name in ("signal", "target", "record", "start", "slot_record"):
            a, b = getattr(one, name), getattr(two, name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_a_closed_stream_gives_its_cpus_back(cluster, walks):
    plan = make_plan(walks, SAMPLING, Beat(), BATCH)
    stream = open_stream(walks, plan, Beat(), backend="ray", first_step=0, last_step=10**7)
    next(stream)
    stream.close()
    patience = time.monotonic() + 60
    while cluster.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < patience, "tasks of a closed stream still run"
        time.sleep(0.2)


def test_no_cpu_left_is_said_before_anything_waits(cluster, walks):
    from ray.util import placement_group, remove_placement_group

    plan = make_plan(walks, SAMPLING, Beat(), BATCH)
    group = placement_group([{"CPU": 1}, {"CPU": 0.6}])
    cluster.get(group.ready())
    try:
        with pytest.raises(EcgrayError, match=r"0\.25 CPU for each of 2 training workers .* got 0\.4 of 2 left"):
            open_stream(walks, plan, Beat(), backend="ray", first_step=0, last_step=5, world=2)
        assert ray_data.cpu_share(1) == (0.25, 1)
    finally:
        remove_placement_group(group)


def test_a_stream_takes_no_more_tasks_than_help_it(monkeypatch):
    monkeypatch.setattr(ray_data, "free_nodes", lambda: [{"CPU": 16.0}, {"CPU": 8.0}])
    assert ray_data.cpu_share(1) == (1.0, ray_data.TASKS) == (1.0, 2)
    assert ray_data.cpu_share(16) == (1.0, 1)


def test_a_stream_that_nobody_reads_does_not_starve_another(cluster, walks, monkeypatch):
    """Two ranks, of which one waits: its tasks must leave the other a CPU."""
    assert ray_data.cpu_share(1) == (1.0, 2)
    assert ray_data.cpu_share(2) == (1.0, 1)
    assert ray_data.cpu_share(8) == (0.25, 1)
    monkeypatch.setattr(ray_data, "BLOCK_BYTES", 1 << 20)
    plan = make_plan(walks, SAMPLING, Beat(), BATCH)
    steps = {"first_step": 0, "last_step": 10**7}
    waiting, reading = (
        open_stream(walks, plan, Beat(), backend="ray", **steps, rank=rank, world=2) for rank in range(2)
    )
    next(waiting)
    time.sleep(2)  # long enough to fill everything that lets a task go on
    blocks = 20 * ray_data.BLOCK_BYTES // (BATCH // 2 * 2 * 256 * 2)
    for _ in range(blocks):
        next(reading)
    waiting.close()
    reading.close()


def test_an_error_in_a_task_reaches_the_consumer(cluster, walks):
    import dataclasses

    plan = make_plan(walks, SAMPLING, Beat(), BATCH)
    task = dataclasses.make_dataclass("Broken", [], bases=(Beat,), frozen=True, namespace={"targets": _broken})()
    with pytest.raises(EcgrayError, match=r"^a shard is gone$"):
        list(open_stream(walks, plan, task, backend="ray", first_step=0, last_step=5))


def _broken(self, *_):
    from ecgray.errors import EcgrayError

    raise EcgrayError("a shard is gone")
