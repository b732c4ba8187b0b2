"""Frames per second that the stream delivers, beside a bare numpy loop and a map-style DataLoader.

    python benchmarks/stream.py [--gb 1] [--repeats 5] [--settings 2048,future] [--out benchmarks/results]

Every method of a setting is measured in turn, ``repeats`` times over, in the same run; the table gives medians and
the range, and ratios to the median of the loop in the same process (the driver, or a Ray Train worker). All methods
deliver the same visits of the same plan: int16 frames with targets, in batches of 256; the consumer reads one word per
page. The loop is ``out[i] = signal[s:s+F]`` from the memory map into one block that is used again and again, plus the
same targets in one call per block. The loader's items are frames with their targets, as a map-style data set has them;
with "targets given" they come from one call before its first batch instead (future prediction: always, from the plan).
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 256
BLOCK = 4096
PAGE_WORDS = 2048
METHODS = "loop;local;ray;loader 0;loader 2;loader 0, targets given;loader 2, targets given"


@dataclass(frozen=True)
class Setting:
    name: str
    frame_size: int
    leads: int
    future: bool
    frames: int
    loader_frames: int


SETTINGS = {
    "512": Setting("512", 512, 1, False, 2 << 20, 128 * BATCH),
    "2048": Setting("2048", 2048, 1, False, 1 << 20, 128 * BATCH),
    "4096": Setting("4096", 4096, 1, False, 1 << 19, 64 * BATCH),
    "future": Setting("future 25 x 512", 512, 1, True, 1 << 17, 16 * BATCH),
    "12x5000": Setting("12 x 5000", 5000, 12, False, 1 << 15, 8 * BATCH),
}


def write_walks(out: Path, *, leads: int, megabytes: float, samples: int, fs: float) -> None:
    """A shard set of random walks with beats and rhythms: two records to a patient."""
    from ecgray.databases.record import BEATS, RHYTHMS, Record
    from ecgray.shards.writer import write_shard_set

    draw = np.random.default_rng(0)
    walk = np.cumsum(draw.integers(-12, 13, (leads, samples)), axis=1)
    walk = (walk % 2000 - 1000).astype(np.int16)
    records = []
    for number in range(max(40, int(megabytes * 1e6 / (2 * leads * samples)))):
        beats = np.cumsum(draw.integers(int(0.6 * fs), int(1.1 * fs), int(samples / (0.6 * fs))))
        beats = beats[beats < samples]
        zones = np.arange(0, samples, int(20 * fs))
        records.append(
            Record(
                id=f"r{number:06d}",
                patient=f"p{number // 2:06d}",
                database="walks",
                fs=fs,
                leads=tuple(f"lead{i}" for i in range(leads)),
                signal=np.roll(walk, int(draw.integers(samples)), axis=1),
                gain=np.full(leads, 200.0),
                baseline=np.zeros(leads),
                beats=beats,
                beat_classes=draw.choice(len(BEATS), len(beats), p=[0.02, 0.9, 0.04, 0.01, 0.03]).astype(np.uint8),
                rhythms=np.stack(
                    [zones, np.minimum(zones + int(15 * fs), samples), draw.integers(2, len(RHYTHMS), len(zones))],
                    axis=1,
                ),
                annotated=True,
            )
        )
    write_shard_set(records, out)


class Bench:
    """One setting over one shard set: every method as a generator of (signal, target) batches."""

    def __init__(self, setting: Setting, shards: str) -> None:
        from ecgray.sampling.plan import SamplingConfig, make_plan
        from ecgray.shards.archive import open_archive
        from ecgray.tasks import Beat, FuturePrediction

        self.setting, self.shards = setting, shards
        self.archive = open_archive([shards])
        self.task = FuturePrediction() if setting.future else Beat()
        self.plan = make_plan(self.archive, SamplingConfig(frame_size=setting.frame_size), self.task, BATCH)
        self.steps = setting.frames // BATCH
        self.lanes = range(8)
        files = sorted(Path(shards).glob("shard-*/signal.npy"))
        # Plain arrays over the maps: slicing a np.memmap itself costs a Python call more for each frame.
        self.maps = [np.asarray(np.load(file, mmap_mode="r", allow_pickle=False)) for file in files]
        self.singles = [signal[0] for signal in self.maps]

    def loop(self) -> Iterator[tuple[Any, Any]]:
        archive, task, size = self.archive, self.task, self.setting.frame_size
        block_steps = BLOCK // BATCH if self.setting.leads == 1 and not self.setting.future else 1
        out = None
        for first in range(0, self.steps, block_steps):
            stretch = (first, min(first + block_steps, self.steps), self.lanes)
            record, start = self.plan.frames(*stretch)
            n = len(record)
            where = list(zip(archive.shard[record].tolist(), (archive.offset[record] + start).tolist(), strict=True))
            maps, singles = self.maps, self.singles
            if out is None:
                out = np.empty((n, self.setting.leads, (25 if self.setting.future else 1) * size), np.int16)
            if self.setting.future:
                target = self._future(stretch, where, out)
            else:
                if self.setting.leads == 1:
                    flat = out[:, 0]
                    for i, (shard, s) in enumerate(where):
                        flat[i] = singles[shard][s : s + size]
                else:
                    for i, (shard, s) in enumerate(where):
                        out[i] = maps[shard][:, s : s + size]
                target = task.targets(record, start, size, archive)
            for row in range(0, n, BATCH):
                yield out[row : row + BATCH], target[row : row + BATCH]

    def _future(self, stretch: Any, where: list[tuple[int, int]], out: np.ndarray) -> np.ndarray:
        archive, size, context = self.archive, self.setting.frame_size, self.task.context
        record, start, place = self.plan.negatives(*stretch)
        shards, offsets = archive.shard[record].tolist(), (archive.offset[record] + start).tolist()
        ahead = (context + self.task.offset) * size
        maps = self.singles
        for i, (shard, s) in enumerate(where):
            row, at = out[i, 0], int(place[i])
            row[: context * size] = maps[shard][s : s + context * size]
            candidates = list(zip(shards[i], offsets[i], strict=True))
            candidates.insert(at, (shard, s + ahead))
            for j, (other, t) in enumerate(candidates, start=context):
                row[j * size : (j + 1) * size] = maps[other][t : t + size]
        return place

    def local(self) -> Iterator[tuple[Any, Any]]:
        return self._stream("local")

    def ray(self) -> Iterator[tuple[Any, Any]]:
        return self._stream("ray")

    def _stream(self, backend: str) -> Iterator[tuple[Any, Any]]:
        from ecgray.sampling.stream import open_stream

        stream = open_stream(
            self.archive,
            self.plan,
            self.task,
            backend=backend,
            first_step=0,
            last_step=self.steps,  # type: ignore[arg-type]
        )
        for batch in stream:
            yield batch.signal, batch.target

    def loader(self, workers: int, given: bool) -> Iterator[tuple[Any, Any]]:
        import torch

        steps = self.setting.loader_frames // BATCH // (1 if given else 4)
        archive, task = self.archive, self.task
        record, start = self.plan.frames(0, steps, self.lanes)
        shard, offset = self.archive.shard[record], self.archive.offset[record] + start
        size, maps = self.setting.frame_size, self.maps
        if self.setting.future:
            from ecgray.sampling.stream import _slots

            negatives = self.plan.negatives(0, steps, self.lanes)
            slot_record, slot_start = _slots(self.task, size, record, start, negatives)
            slot_shard, slot_offset = self.archive.shard[slot_record], self.archive.offset[slot_record] + slot_start
            target = negatives[2]
        elif given:
            target = task.targets(record, start, size, archive)

        class Frames(torch.utils.data.Dataset):  # type: ignore[type-arg]
            def __len__(self) -> int:
                return len(record)

            def __getitem__(self, i: int) -> tuple[Any, Any]:
                if slots:
                    parts = [maps[a][:, b : b + size] for a, b in zip(slot_shard[i], slot_offset[i], strict=True)]
                    return np.concatenate(parts, axis=1), target[i]
                label = target[i] if given else task.targets(record[i : i + 1], start[i : i + 1], size, archive)[0]
                return np.array(maps[shard[i]][:, offset[i] : offset[i] + size]), label

        slots = self.setting.future
        for signal, labels in torch.utils.data.DataLoader(Frames(), batch_size=BATCH, num_workers=workers):
            yield signal.numpy(), labels


def measure(batches: Iterator[tuple[Any, Any]], copy: bool) -> dict[str, float]:
    """Frames per second over the whole run and after the first batch, and the seconds to that batch."""
    begin = time.perf_counter()
    frames, touched, first, mine = 0, 0, 0.0, None
    for signal, target in batches:
        if copy:
            mine = np.empty_like(signal) if mine is None or mine.shape != signal.shape else mine
            np.copyto(mine, signal)
            touched += int(mine[0, 0, 0])
        else:
            touched += int(signal.reshape(-1)[::PAGE_WORDS].sum()) + int(target[0])
        frames += len(target)
        if not first:
            first = time.perf_counter() - begin
            first_frames = frames
    whole = time.perf_counter() - begin
    return {"whole": frames / whole, "sustained": (frames - first_frames) / (whole - first), "first_s": first}


def compare(
    setting: Setting, shards: str, repeats: int, methods: list[str], copy: bool
) -> dict[str, list[dict[str, float]]]:
    """Every method in turn, ``repeats`` times over; the first round of each warms caches and is left out."""
    bench = Bench(setting, shards)
    make: dict[str, Callable[[], Iterator[tuple[Any, Any]]]] = {
        "loop": bench.loop,
        "local": bench.local,
        "ray": bench.ray,
        "loader 0": lambda: bench.loader(0, given=False),
        "loader 2": lambda: bench.loader(2, given=False),
        "loader 0, targets given": lambda: bench.loader(0, given=True),
        "loader 2, targets given": lambda: bench.loader(2, given=True),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for turn in range(repeats + 1):
        for name in methods:
            run = measure(make[name](), copy)
            if turn:
                runs[name].append(run)
    return runs


def in_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The loop of a Ray Train worker: the same comparison from inside."""
    methods = ["loop", "local", "ray"]
    return {
        name: compare(SETTINGS[name], config["shards"][name], config["repeats"], methods, config["copy"])
        for name in config["settings"]
    }


def train_worker(config: dict[str, Any], cpus: float, folder: Path) -> dict[str, Any]:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        in_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(name="bench-stream", storage_path=str(folder)),
    )
    return trainer.fit().return_value


def rows_of(place: str, setting: str, runs: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    loop = statistics.median(run["whole"] for run in runs["loop"])
    rows = []
    for method, measured in runs.items():
        whole, sustained = ([run[key] for run in measured] for key in ("whole", "sustained"))
        rows.append(
            {
                "place": place,
                "setting": setting,
                "method": method,
                "repeats": len(measured),
                "whole": statistics.median(whole),
                "sustained": statistics.median(sustained),
                "low": min(sustained),
                "high": max(sustained),
                "ratio_whole": statistics.median(whole) / loop,
                "ratio_sustained": statistics.median(sustained) / loop,
                "first_s": statistics.median(run["first_s"] for run in measured),
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Frames per second, delivered with targets (median; range of the sustained rate)")
    columns = ["where", "frames", "method", "whole run", "sustained", "range", "of loop: whole", "sustained"]
    columns.append("first batch")
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:3] else "right")
    for row in rows:
        table.add_row(
            row["place"],
            row["setting"],
            row["method"],
            f"{row['whole']:,.0f}",
            f"{row['sustained']:,.0f}",
            f"{row['low']:,.0f}-{row['high']:,.0f}",
            f"{row['ratio_whole']:.2f}",
            f"{row['ratio_sustained']:.2f}",
            f"{row['first_s']:.3f} s",
        )
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the single-lead shard set")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--worker-cpus", type=float, default=0.5, help="of the Ray Train worker; 0 leaves it out")
    parser.add_argument("--copy", action="store_true", help="the consumer copies every batch once")
    parser.add_argument("--shards", type=Path, help="keep the shard sets here and use them again")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    names, methods = arguments.settings.split(","), arguments.methods.split(";")
    folder = arguments.shards or Path(tempfile.mkdtemp(prefix="ecgray-bench-"))
    try:
        rows = run(arguments, names, methods, folder)
    finally:
        if not arguments.shards:
            shutil.rmtree(folder)
    show(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "stream.json").write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")


def run(arguments: argparse.Namespace, names: list[str], methods: list[str], folder: Path) -> list[dict[str, Any]]:
    sets = {1: folder / "single", 12: folder / "twelve"}
    for leads, samples, fs, share in ((1, 1 << 20, 250.0, 1.0), (12, 60_000, 500.0, 0.5)):
        if not (sets[leads] / "manifest.json").exists() and any(SETTINGS[name].leads == leads for name in names):
            write_walks(sets[leads], leads=leads, megabytes=1000 * share * arguments.gb, samples=samples, fs=fs)
    shards = {name: str(sets[SETTINGS[name].leads]) for name in names}
    if "ray" in methods:
        import ray

        ray.init(num_cpus=2, log_to_driver=False)
    rows = []
    for name in names:
        runs = compare(SETTINGS[name], shards[name], arguments.repeats, methods, arguments.copy)
        rows += rows_of("driver", SETTINGS[name].name, runs)
        print(json.dumps(rows[-len(methods) :]), flush=True)
    if "ray" in methods:
        if arguments.worker_cpus:
            config = {"shards": shards, "settings": names, "repeats": arguments.repeats, "copy": arguments.copy}
            for name, runs in train_worker(config, arguments.worker_cpus, folder / "train").items():
                rows += rows_of("Train worker", SETTINGS[name].name, runs)
        ray.shutdown()
    return rows


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("ecgray", "numpy", "ray", "torch")} | {"python": platform.python_version()}


if __name__ == "__main__":
    main()
