"""How data plane and controller scale: 1 to 16 workers of Ray Train whose training step is simulated by a sleep.

    python benchmarks/scaling.py [--shards DIR] [--workers 1,2,4,8,16] [--steps 100] [--out benchmarks/results]

Every worker takes real batches of 32 frames of 2,048 samples off its own Ray stream, reads one word per page, sleeps
100 ms, and joins an all-reduce of the step's sums over gloo, as in training. All workers are there from the beginning
and the controller watches all of them; with n of them at work the others wait. "processes" is the same step in n plain
processes, without Ray and with one batch again and again, measured first: what is lost there is the machine's, which
has fewer cores than workers, and gloo's. Efficiency of data plane and controller is the quotient. "of ideal" is over
n x 320 frames/s, what n workers would do with data and sums for nothing. "flat out" is without the sleep and the
all-reduce: the most that n streams deliver together. The object store's largest use meanwhile says how much a stream
keeps there (``ecgray plan`` counts with that). Without --shards, 1 GB of random walks is written first.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import Bar, keep, show_bars, show_table, words

BATCH, FRAME_SIZE, STEP_S = 32, 2048, 0.1
WORKER_CPUS = 0.05
WARM_STEPS = 10
WARM_SHARE = 0.25
"""Of the frames taken flat out: tasks start, and the store's memory is touched for the first time."""
LANES = 16


def in_worker(config: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The loop of a worker: all counts in turn. Only the first rank returns what was measured."""
    import ray.train
    import torch
    import torch.distributed as dist

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(1)
    rows = []
    for count in config["workers"]:
        group = dist.new_group(list(range(count)))
        dist.barrier()
        row: dict[str, Any] = {"workers": count}
        if rank < count:
            steps = WARM_STEPS + config["steps"]
            with Peak() if rank == 0 else Nothing() as peak:
                row |= simulate(stream_of(config["shards"], rank, count, steps), steps, count, group)
                row |= flat_out(config["shards"], rank, count, group, config["flat_frames"])
            row["object_store_bytes"] = peak.bytes
        rows.append(row)
        dist.barrier()  # nobody's stream stays open into the next count
    return rows if rank == 0 else None


def without_ray(count: int, steps: int, folder: Path) -> float:
    """Frames/s of the same step in ``count`` plain processes, with one batch again and again."""
    meeting = folder / f"group-{count}"
    fresh = multiprocessing.get_context("spawn")
    result = fresh.SimpleQueue()
    processes = [fresh.Process(target=plain, args=(rank, count, steps, meeting, result)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"A plain process ended with {process.exitcode}.")
    return float(result.get())


def plain(rank: int, count: int, steps: int, meeting: Path, result: Any) -> None:
    import numpy as np
    import torch
    import torch.distributed as dist

    from ecgray.sampling.stream import Batch

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    none = np.zeros(BATCH, np.int64)
    one = Batch(np.zeros((BATCH, 1, FRAME_SIZE), np.int16), none, none, none, none[:, None])
    steps += WARM_STEPS
    rate = simulate(iter([one] * steps), steps, count, dist.group.WORLD)["frames_per_s"]
    if rank == 0:
        result.put(rate)
    dist.destroy_process_group()


def stream_of(shards: str, rank: int, count: int, steps: int) -> Any:
    from ecgray.sampling.plan import SamplingConfig, make_plan
    from ecgray.sampling.stream import open_stream
    from ecgray.shards.archive import open_archive
    from ecgray.tasks import Beat

    archive, task = open_archive([shards], verify="sizes"), Beat()
    plan = make_plan(archive, SamplingConfig(frame_size=FRAME_SIZE, lanes=LANES), task, BATCH * count)
    return open_stream(archive, plan, task, backend="ray", first_step=0, last_step=steps, rank=rank, world=count)


def simulate(stream: Iterator[Any], steps: int, count: int, group: Any) -> dict[str, Any]:
    """Steps of STEP_S. A step's work begins when its batch is there; the all-reduce ends it."""
    import torch
    import torch.distributed as dist

    waited, began, touched = 0.0, 0.0, 0
    for step in range(steps):
        if step == WARM_STEPS:
            dist.barrier(group)
            waited, began = 0.0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(stream)
        waited += time.perf_counter() - asked
        touched += int(batch.signal.reshape(-1)[::2048].sum()) + int(batch.target[0])
        time.sleep(STEP_S)
        sums = torch.full((5,), float(len(batch)), dtype=torch.float64)
        dist.all_reduce(sums, group=group)
        assert sums[0].item() == BATCH * count
    dist.barrier(group)
    elapsed = time.perf_counter() - began
    return {"frames_per_s": (steps - WARM_STEPS) * BATCH * count / elapsed, "waiting_for_data": waited / elapsed}


def flat_out(shards: str, rank: int, count: int, group: Any, frames: int) -> dict[str, Any]:
    """Frames/s of all streams together, without a step; ``frames`` among all, the first ones to warm up. The stream is
    read to its end: one that is left before keeps its blocks in the store as long as this process lives."""
    import torch
    import torch.distributed as dist

    steps = frames // (BATCH * count)
    warm, touched, began = int(WARM_SHARE * steps), 0, 0.0
    for step, batch in enumerate(stream_of(shards, rank, count, steps)):
        if step == warm:
            dist.barrier(group)
            began = time.perf_counter()
        touched += int(batch.signal.reshape(-1)[::2048].sum())
    rate = torch.tensor([(steps - warm) * BATCH / (time.perf_counter() - began)], dtype=torch.float64)
    dist.all_reduce(rate, group=group)
    return {"flat_out_frames_per_s": rate.item()}


class Peak:
    """The largest number of bytes in the cluster's object store meanwhile."""

    def __enter__(self) -> Peak:
        import ray

        self.bytes, self._done, total = 0, threading.Event(), ray.cluster_resources()["object_store_memory"]

        def watch() -> None:
            while not self._done.wait(0.5):
                left = ray.available_resources().get("object_store_memory", 0.0)
                self.bytes = max(self.bytes, int(total - left))

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class Nothing:
    """What the other ranks have instead."""

    bytes = 0

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def run(shards: str, workers: list[int], steps: int, flat_frames: int, folder: Path) -> list[dict[str, Any]]:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    bare = {count: without_ray(count, steps, folder) for count in workers}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # as in training
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")  # sixteen starts on two cores
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    # Logical CPUs: a simulated step needs hardly any, and every stream gets a quarter of one for its tasks.
    ray.init(
        num_cpus=math.ceil(max(workers) * (WORKER_CPUS + 0.25)) + 1,
        object_store_memory=(1 << 30) + max(workers) * (320 << 20),
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        trainer = TorchTrainer(
            in_worker,
            train_loop_config={"shards": shards, "workers": workers, "steps": steps, "flat_frames": flat_frames},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=max(workers), resources_per_worker={"CPU": WORKER_CPUS}),
            run_config=RunConfig(name="scaling", storage_path=str(folder / "train")),
        )
        rows: list[dict[str, Any]] = trainer.fit().return_value
    finally:
        ray.shutdown()
    for row in rows:
        plainly = bare[row["workers"]]
        row |= {
            "processes_frames_per_s": plainly,
            "efficiency": row["frames_per_s"] / plainly,
            "of_ideal": row["frames_per_s"] / (row["workers"] * BATCH / STEP_S),
        }
    return rows


def main() -> None:
    parser = words(__doc__)
    parser.add_argument(
        "--shards", type=Path, help="a shard set of one lead (default: random walks, written and removed)"
    )
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--steps", type=int, default=100, help="of each count, after the warm ones")
    parser.add_argument("--flat-frames", type=int, default=2_000_000, help="taken flat out, of each count")
    given = parser.parse_args()
    workers = [int(count) for count in given.workers.split(",")]
    if max(workers) > LANES:
        parser.error(f"at most {LANES} workers")
    folder = Path(tempfile.mkdtemp(prefix="ecgray-scaling-"))
    try:
        shards = given.shards
        if shards is None:
            from stream import write_walks

            shards = folder / "walks"
            write_walks(shards, leads=1, megabytes=1000, samples=1 << 20, fs=250.0)
        rows = run(str(shards.resolve()), workers, given.steps, given.flat_frames, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show_table(
        "Simulated steps of 32 frames in 100 ms",
        [
            "workers",
            "frames/s",
            "processes",
            "efficiency",
            "of ideal",
            "waiting",
            "flat out, frames/s",
            "store, MB a stream",
        ],
        [
            (
                row["workers"],
                f"{row['frames_per_s']:,.0f}",
                f"{row['processes_frames_per_s']:,.0f}",
                f"{row['efficiency']:.3f}",
                f"{row['of_ideal']:.3f}",
                f"{row['waiting_for_data']:.2%}",
                f"{row['flat_out_frames_per_s']:,.0f}",
                f"{row['object_store_bytes'] / row['workers'] / 1e6:,.0f}",
            )
            for row in rows
        ],
        left=0,
    )
    bars = [Bar("efficiency at 8 workers", row["efficiency"], least=0.95) for row in rows if row["workers"] == 8]
    show_bars(bars)
    keep(given.out, "scaling", {"shards": str(given.shards or "walks"), "rows": rows}, bars)


if __name__ == "__main__":
    main()
