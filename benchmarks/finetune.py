"""Ten seeds of finetuning side by side against the same ten one after another: the time, and the memory of the node.

    python benchmarks/finetune.py [--seeds 10] [--workers 2] [--records 3000]

Labelled random walks of 60 s and a ResNet-18 of width 8: small networks over an array that is large beside them. Each
run is a process of its own. One after another, the seeds read the prepared array of that process; side by side, they
shall map the one in Ray's object store, which every seed is asked about: where its array lies in memory that
processes share, it is no copy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import Bar, Spread, in_turn, keep, show_bars, show_table, words

EVERY_S = 0.2
MB = 1 << 20
FS = 250.0


def write_labelled_walks(out: Path, records: int, seconds: float) -> None:
    """A shard set of ``records`` random walks of one lead, a patient each, with one of three labels."""
    from ecgray.databases.record import Record
    from ecgray.shards.writer import write_shard_set

    draw, none = np.random.default_rng(0), np.empty(0, np.int64)
    walk = np.cumsum(draw.integers(-12, 13, int(seconds * FS))) % 2000 - 1000
    write_shard_set(
        [
            Record(
                id=f"r{number:05d}",
                patient=f"p{number:05d}",
                database="walks",
                fs=FS,
                leads=("i",),
                signal=np.roll(walk, int(draw.integers(len(walk)))).astype(np.int16)[None],
                gain=np.array([200.0]),
                baseline=np.zeros(1),
                beats=none,
                beat_classes=none.astype(np.uint8),
                rhythms=none.reshape(0, 3),
                labels=("ABC"[number % 3],),
                annotated=False,
            )
            for number in range(records)
        ],
        out,
    )


def is_shared(array: np.ndarray) -> bool:
    """Whether the array lies in memory that is mapped to be shared between processes."""
    address = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, rights = line.split()[:2]
        first, last = (int(word, 16) for word in bounds.split("-"))
        if first <= address < last:
            return rights.endswith("s")
    return False


class NodeMemory:
    """Peak memory in MB of this process and all below it, shared pages counted once (PSS), looked at now and then."""

    def __init__(self) -> None:
        self._peak, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(EVERY_S):
            now = 0.0
            for process in (me, *me.children(recursive=True)):
                try:
                    now += process.memory_full_info().pss / MB
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self._peak = max(self._peak, now)

    def stop(self) -> float:
        self._stop.set()
        self._thread.join()
        return self._peak


def one_run(shards: str, out: str, workers: int, seeds: int, epochs: int) -> dict[str, Any]:
    """A finetuning run in this process: its seconds, the node's memory, and what its seeds say of the array."""
    from ecgray.finetuning import protocol
    from ecgray.finetuning.seed_run import SeedJob, Signals, choose_epoch
    from ecgray.models import ResNet
    from ecgray.recipes import find_recipe

    config: Any = find_recipe("weimann2021_table1_none", "finetune").make()
    config = replace(
        config,
        data=replace(config.data, shards=shards, train_fraction=0.05),
        model=ResNet(width=8),
        protocol=replace(
            config.protocol, seeds=seeds, epochs=epochs, patience=epochs, val_fraction=0.02, test_fraction=0.02
        ),
    )

    def watched(job: SeedJob, signals: Signals) -> None:
        begun = time.monotonic()
        choose_epoch(job, signals)
        said = {"array_mb": signals.nbytes / MB, "copied": not is_shared(signals), "pid": os.getpid()}
        (job.folder / "said.json").write_text(json.dumps(said | {"seconds": time.monotonic() - begun}))

    protocol.choose_epoch = watched
    memory, begun = NodeMemory(), time.monotonic()
    protocol.finetune(config, Path(out), workers=workers)
    seconds = time.monotonic() - begun
    said = [json.loads(file.read_text()) for file in sorted(Path(out).glob("seeds/*/said.json"))]
    return {
        "seconds": seconds,
        "node_mb": memory.stop(),
        "array_mb": said[0]["array_mb"],
        "copies": sum(one["copied"] for one in said) if workers else 0,
        "processes": len({one["pid"] for one in said}),
        "seed_s": sum(one["seconds"] for one in said) / len(said),
    }


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        shards, out, *numbers = sys.argv[2:]
        print(json.dumps(one_run(shards, out, *map(int, numbers))))
        return
    parser = words(__doc__)
    parser.set_defaults(repeats=1)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a record")
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ecgray-bench-") as name:
        folder, number = Path(name), iter(range(1000))
        write_labelled_walks(folder / "shards", given.records, given.seconds)

        def run(workers: int) -> dict[str, Any]:
            settings = [folder / "shards", folder / str(next(number)), workers, given.seeds, given.epochs]
            child = subprocess.run(
                [sys.executable, __file__, "--run", *map(str, settings)], stdout=subprocess.PIPE, text=True, check=True
            )
            found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
            return found

        ways = {"one after another": lambda: run(0), f"{given.workers} side by side": lambda: run(given.workers)}
        runs = in_turn(ways, given.repeats, warm=False)
    rows = []
    for way, found in runs.items():
        columns = {key: Spread.of(one[key] for one in found) for key in found[0]}
        rows.append({"way": way, "seeds": given.seeds} | {key: vars(spread) for key, spread in columns.items()})
    beside = rows[1]
    show_table(
        f"{given.seeds} seeds over an array of {beside['array_mb']['median']:.0f} MB",
        ["seeds", "whole run, s", "a seed, s", "node's memory, MB", "processes", "copies of the array"],
        [
            (
                row["way"],
                *(f"{row[k]['median']:,.1f}" for k in ("seconds", "seed_s", "node_mb")),
                *(f"{row[k]['median']:.0f}" for k in ("processes", "copies")),
            )
            for row in rows
        ],
    )
    time_ratio = Spread.ratio(*([one["seconds"] for one in found] for found in list(runs.values())[::-1]))
    print(f"Side by side takes {time_ratio.show()} of the time of one after another.")
    bars = [Bar("copies of the prepared array beside the one in the store", beside["copies"]["high"], most=0)]
    show_bars(bars)
    keep(given.out, "finetune", {"rows": rows, "time_ratio": vars(time_ratio)}, bars)


if __name__ == "__main__":
    main()
