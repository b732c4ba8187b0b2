"""A pretraining step of ecgray's loop against a step of a bare PyTorch loop on a fixed random batch.

    python benchmarks/step.py [--steps 20] [--threads 2,1]

ResNet-18, batches of 32 frames of 2,048 samples, beat classification; in this process with the local stream, and in a
worker of Ray Train with Ray Data. Steps alternate: one of the bare loop, one of ecgray's. Ray gives a worker one
thread; ecgray sets its share of the machine's cores instead, and the table shows what either is worth.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from bare import config_of, in_turns
from measure import Bar, Spread, keep, show_bars, show_table, words
from walks import write_walks

from ecgray.processor import cores

PLACES = {"driver": "this process, local stream", "worker": "a Ray Train worker, Ray Data"}


def measure(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per number of threads, in this process or, inside a trainer, in its worker."""
    inside = settings["place"] == "worker"
    report = None
    if inside:
        import ray.train

        report = ray.train.report
    rows = []
    for threads in settings["threads"]:
        torch.set_num_threads(threads)
        config = config_of(
            Path(settings["shards"]), steps=settings["steps"] + 2, model=settings["model"], threads=threads
        )
        turns = in_turns(config, "ray" if inside else "local", report)
        whole = [step + wait for step, wait in zip(turns.loop, turns.wait, strict=True)]
        rows.append(
            {
                "place": settings["place"],
                "threads": threads,
                "bare_ms": vars(Spread.of(1000 * t for t in turns.bare)),
                "loop_ms": vars(Spread.of(1000 * t for t in whole)),
                "ratio": vars(Spread.ratio(whole, turns.bare)),
                "waiting": sum(turns.wait) / sum(whole),
                "frames_per_s": config.training.batch_size * len(whole) / sum(whole),
            }
        )
    return rows


def in_worker(settings: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(num_cpus=max(2, cores()), log_to_driver=False, dashboard_host="127.0.0.1")
    try:
        trainer = TorchTrainer(
            measure,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name="bench-step", storage_path=str(folder)),
        )
        rows: list[dict[str, Any]] = trainer.fit().return_value
    finally:
        ray.shutdown()
    return rows


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of each loop, in each row")
    parser.add_argument("--threads", default=",".join(dict.fromkeys((str(cores()), "1"))))
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--places", default="driver,worker")
    given = parser.parse_args()
    threads, rows = [int(word) for word in given.threads.split(",")], []
    with tempfile.TemporaryDirectory(prefix="ecgray-bench-") as name:
        folder = Path(name)
        shards = write_walks(folder / "walks", megabytes=80)
        for place in given.places.split(","):
            settings = {
                "place": place,
                "threads": threads,
                "steps": given.steps,
                "shards": str(shards),
                "model": {"width": given.width},
            }
            rows += in_worker(settings, folder / "train") if place == "worker" else measure(settings)
    show_table(
        "A step of 32 frames of 2,048 samples, ResNet-18, ms (range)",
        ["where", "threads", "bare loop", "ecgray", "ecgray / bare (range)", "waiting for data", "frames/s"],
        [
            (
                PLACES[row["place"]],
                row["threads"],
                Spread(**row["bare_ms"]).show(".0f"),
                Spread(**row["loop_ms"]).show(".0f"),
                Spread(**row["ratio"]).show(".3f"),
                f"{100 * row['waiting']:.2f} %",
                f"{row['frames_per_s']:.1f}",
            )
            for row in rows
        ],
    )
    bars = []
    for row in rows:
        where = f"{PLACES[row['place']]}, {row['threads']} threads"
        bars.append(Bar(f"{where}: overhead of the loop, %", 100 * (row["ratio"]["median"] - 1), most=3))
        bars.append(Bar(f"{where}: waiting for data, %", 100 * row["waiting"], most=1))
    show_bars(bars)
    keep(given.out, "step", {"rows": rows}, bars)


if __name__ == "__main__":
    main()
