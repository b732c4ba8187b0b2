"""How data plane and controller scale: 1 to 16 workers of Ray Train whose training step is simulated by a sleep.

    python benchmarks/scaling.py [--shards DIR] [--workers 1,2,4,8,16] [--steps 100] [--out benchmarks/results]

Every worker takes real batches of 32 frames of 2,048 samples off its own Ray stream, reads one word per page, sleeps
100 ms, and joins an all-reduce of the step's sums over gloo, as in training. All workers are there from the beginning
and the controller watches all of them; with n of them at work the others wait. Efficiency is frames/s over n x 320,
what n workers would do with data and sums for nothing. "in memory" is the same with one batch used again and again and
no stream: what is lost there too is the machine's and gloo's. "flat out" is without the sleep and the all-reduce: the
most that n streams deliver together. The object store's largest use while they run says how much a stream keeps there
(``ecgray plan`` counts with that). Without --shards, 1 GB of random walks is written first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

BATCH, FRAME_SIZE, STEP_S = 32, 2048, 0.1
WORKER_CPUS = 0.05
WARM_STEPS = 10
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
            with Peak() if rank == 0 else Nothing() as peak:
                row["in_memory_frames_per_s"] = simulate(config, rank, count, group, again=True)["frames_per_s"]
                row |= simulate(config, rank, count, group)
                row |= flat_out(config["shards"], rank, count, group, config["seconds"])
            row["object_store_bytes"] = peak.bytes
            row["efficiency"] = row["frames_per_s"] / (count * BATCH / STEP_S)
        rows.append(row)
        dist.barrier()  # nobody's stream stays open into the next count
    return rows if rank == 0 else None


def stream_of(shards: str, rank: int, count: int, steps: int) -> Any:
    from ecgray.sampling.plan import SamplingConfig, make_plan
    from ecgray.sampling.stream import open_stream
    from ecgray.shards.archive import open_archive
    from ecgray.tasks import Beat

    archive, task = open_archive([shards], verify="sizes"), Beat()
    plan = make_plan(archive, SamplingConfig(frame_size=FRAME_SIZE, lanes=LANES), task, BATCH * count)
    return open_stream(archive, plan, task, backend="ray", first_step=0, last_step=steps, rank=rank, world=count)


def simulate(config: dict[str, Any], rank: int, count: int, group: Any, *, again: bool = False) -> dict[str, Any]:
    """Steps of STEP_S. A step's work begins when its batch is there; the all-reduce ends it. ``again``: the first batch
    is every batch."""
    import torch
    import torch.distributed as dist

    waited, began, touched, steps = 0.0, 0.0, 0, config["steps"]
    opened = stream_of(config["shards"], rank, count, WARM_STEPS + steps)
    stream = opened
    if again:
        stream = itertools.repeat(next(opened))
        opened.close()
    for step in range(WARM_STEPS + steps):
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
    opened.close()
    return {"frames_per_s": steps * BATCH * count / elapsed, "waiting_for_data": waited / elapsed}


def flat_out(shards: str, rank: int, count: int, group: Any, seconds: float) -> dict[str, Any]:
    """Frames/s of all streams together, without a step."""
    import torch
    import torch.distributed as dist

    frames, touched = 0, 0
    stream = stream_of(shards, rank, count, 1 << 40)
    next(stream)
    dist.barrier(group)
    began = time.perf_counter()
    for batch in stream:
        touched += int(batch.signal.reshape(-1)[::2048].sum())
        frames += len(batch)
        if time.perf_counter() - began >= seconds:
            break
    rate = torch.tensor([frames / (time.perf_counter() - began)], dtype=torch.float64)
    stream.close()
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


def run(shards: str, workers: list[int], steps: int, seconds: float, folder: Path) -> list[dict[str, Any]]:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # as in training
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")  # sixteen starts on two cores
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    # Logical CPUs: a simulated step needs hardly any, and every stream gets a quarter of one for its tasks.
    ray.init(
        num_cpus=math.ceil(max(workers) * (WORKER_CPUS + 0.25)) + 1,
        object_store_memory=3 << 30,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        trainer = TorchTrainer(
            in_worker,
            train_loop_config={"shards": shards, "workers": workers, "steps": steps, "seconds": seconds},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=max(workers), resources_per_worker={"CPU": WORKER_CPUS}),
            run_config=RunConfig(name="scaling", storage_path=str(folder / "train")),
        )
        return trainer.fit().return_value
    finally:
        ray.shutdown()


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    titles = (
        "workers",
        "frames/s",
        "efficiency",
        "in memory",
        "waiting for data",
        "flat out, frames/s",
        "object store, MB a stream",
    )
    for title in titles:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            str(row["workers"]),
            f"{row['frames_per_s']:,.0f}",
            f"{row['efficiency']:.3f}",
            f"{row['in_memory_frames_per_s'] / (row['workers'] * BATCH / STEP_S):.3f}",
            f"{row['waiting_for_data']:.1%}",
            f"{row['flat_out_frames_per_s']:,.0f}",
            f"{row['object_store_bytes'] / row['workers'] / 1e6:,.0f}",
        )
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shards", type=Path, help="a shard set of one lead (default: random walks, written and removed)"
    )
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--steps", type=int, default=100, help="of each count, after the warm ones")
    parser.add_argument("--seconds", type=float, default=5.0, help="flat out, of each count")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    workers = [int(count) for count in arguments.workers.split(",")]
    if max(workers) > LANES:
        parser.error(f"at most {LANES} workers")
    folder = Path(tempfile.mkdtemp(prefix="ecgray-scaling-"))
    try:
        shards = arguments.shards
        if shards is None:
            from stream import write_walks

            shards = folder / "walks"
            write_walks(shards, leads=1, megabytes=1000, samples=1 << 20, fs=250.0)
        rows = run(str(shards.resolve()), workers, arguments.steps, arguments.seconds, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()
    values = {"cpus": os.cpu_count(), "load": load, "shards": str(arguments.shards or "walks"), "rows": rows}
    (arguments.out / "scaling.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
