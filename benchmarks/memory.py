"""Memory of the streaming processes over the size of the archive and the length of the run, how a run over a million
records starts, and how an archive that does not fit into memory is read.

    python benchmarks/memory.py [--gb 0.2,2] [--steps 10000] [--ray] [--records 1000000] [--limit-mb 500]

The shard sets are simulated: a real records table, signal files that are holes. Every stream is a process of its own
that takes batches of 256 frames of 2,048 samples and reads one word per page; with ``--ray`` it is a driver on Ray
Data, and what counts is the largest process that cuts. Peak RSS counts the pages of the memory-mapped shards that the
process has looked at, which the kernel takes back when it needs them; "own" is without those (RssAnon).

``--limit-mb`` (root, and memory control groups that may be written) adds a stream over 1 GB of random walks on the disk
in a group that may fill so much memory, first as such an archive is read, then as one that is believed to fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from walks import write_walks

BATCH = 256
SAMPLES = 1 << 20
RECORDS_PER_SHARD = 61
RECORDS_PER_PATIENT = 10
TABLES = ("records.parquet", "refused.csv")


def simulate(out: Path, records: int) -> Path:
    """A shard set of ``records`` records of 2 MiB, 61 to a shard and 10 to a patient; the signal files are holes, and
    the annotations (a beat in .8 s, a rhythm in 20 s) are those of one shard, to which all the others link."""
    from ecgray.databases.record import BEATS, RHYTHMS, Record
    from ecgray.shards.manifest import Manifest, read_manifest
    from ecgray.shards.writer import write_shard_set

    draw, zones = np.random.default_rng(0), np.arange(0, SAMPLES, 5000)
    first = []
    for number in range(min(records, RECORDS_PER_SHARD)):
        beats = np.cumsum(draw.integers(150, 275, SAMPLES // 150))
        beats = beats[beats < SAMPLES]
        kinds = draw.integers(2, len(RHYTHMS), len(zones))
        first.append(
            Record(
                id=f"r{number:07d}",
                patient=f"p{number // RECORDS_PER_PATIENT:06d}",
                database="simulated",
                fs=250.0,
                leads=("i",),
                signal=np.arange(SAMPLES, dtype=np.int16)[None] % 99,
                gain=np.array([200.0]),
                baseline=np.array([0.0]),
                beats=beats,
                beat_classes=draw.choice(len(BEATS), len(beats), p=[0.02, 0.9, 0.04, 0.01, 0.03]).astype(np.uint8),
                rhythms=np.stack([zones, np.minimum(zones + 3750, SAMPLES), kinds], axis=1),
                annotated=True,
            )
        )
    write_shard_set(first, out / "template", shard_mb=1000)
    template: Manifest = read_manifest(out / "template")
    row = pq.read_table(out / "template" / "records.parquet")
    number = np.arange(records)
    row = row.take(pa.array(number % len(first)))
    given: dict[str, Any] = {
        "id": pa.array([f"r{i:07d}" for i in number]),
        "signal_hash": pa.array([f"{i:064x}" for i in number]),
        "patient": pa.array([f"p{i // RECORDS_PER_PATIENT:06d}" for i in number]),
        "shard": number // RECORDS_PER_SHARD,
    }
    columns = [
        pa.array(given[name]).cast(column.type) if name in given else column
        for name, column in zip(row.column_names, row.columns, strict=True)
    ]
    pq.write_table(pa.table(columns, schema=row.schema), out / "records.parquet")
    (out / "template" / "refused.csv").rename(out / "refused.csv")
    shards: list[dict[str, Any]] = []
    files = {name: {"bytes": (out / name).stat().st_size, "sha256": "0" * 64} for name in TABLES}
    small = {path.name: path for path in (out / "template" / "shard-00000").iterdir()}
    for shard in range(-(-records // RECORDS_PER_SHARD)):
        name, held = f"shard-{shard:05d}", min(RECORDS_PER_SHARD, records - shard * RECORDS_PER_SHARD)
        (out / name).mkdir()
        for file, path in small.items():
            if file == "signal.npy":
                continue
            if held == len(first):
                os.link(path, out / name / file)
            else:
                reach = 1 if file == "rhythms.npy" else 0
                inside = np.load(path.with_name("rhythms.npy" if reach else "beats.npy")).reshape(-1, 1 + 2 * reach)
                np.save(out / name / file, np.load(path)[inside[:, reach] <= held * SAMPLES - 1 + reach])
            files[f"{name}/{file}"] = {"bytes": (out / name / file).stat().st_size, "sha256": "0" * 64}
        with open(out / name / "signal.npy", "wb") as stream:
            shape = {"descr": "<i2", "fortran_order": False, "shape": (1, held * SAMPLES)}
            np.lib.format.write_array_header_1_0(stream, shape)  # type: ignore[arg-type]
            stream.truncate(stream.tell() + 2 * held * SAMPLES)
            files[f"{name}/signal.npy"] = {"bytes": os.fstat(stream.fileno()).st_size, "sha256": "0" * 64}
        shards.append({"name": name, "records": held, "samples": held * SAMPLES})
    values = {"records": records, "patients": -(-records // RECORDS_PER_PATIENT), "samples": records * SAMPLES}
    manifest = dataclasses.replace(template, **values, shards=tuple(shards), files=files)
    (out / "manifest.json").write_text(manifest.to_json())
    shutil.rmtree(out / "template")
    return out


def plan_of(shards: Path) -> tuple[Any, Any, Any]:
    """(archive, plan, task) over a set, as a run makes them."""
    from ecgray.sampling.plan import SamplingConfig, make_plan
    from ecgray.shards.archive import open_archive
    from ecgray.tasks import TASKS

    archive, task = open_archive([shards]), TASKS["beat"]()
    return archive, make_plan(archive, SamplingConfig(), task, BATCH), task


def stream(shards: Path, steps: int, backend: Any) -> dict[str, Any]:
    """Memory in MB of one stream; run in a process of its own."""
    from ecgray.sampling.stream import open_stream

    archive, plan, task = plan_of(shards)
    watched = Watched(backend == "ray")
    if backend == "ray":
        import ray

        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, object_store_memory=1 << 30)
    seen, begun = 0, time.monotonic()
    own = []
    for step, batch in enumerate(open_stream(archive, plan, task, backend=backend, first_step=0, last_step=steps), 1):
        seen += int(batch.signal[:, :, ::2048].sum())
        if step % max(1, steps // 10) == 0:
            own.append(watched.look()["own"])
    elapsed = time.monotonic() - begun
    return {
        "backend": backend,
        "steps": steps,
        "frames_per_s": round(steps * BATCH / elapsed),
        "peak_rss": watched.peak["rss"],
        "peak_own": watched.peak["own"],
        "own_over_the_run": own,
    }


class Watched:
    """Peak memory in MB of this process, or of the largest Ray worker below it, looked at ten times a second."""

    def __init__(self, children: bool) -> None:
        self._children, self.peak = children, {"rss": 0, "own": 0}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(0.1)

    def look(self) -> dict[str, int]:
        import psutil

        me = psutil.Process()
        found = [c for c in me.children(recursive=True) if c.name().startswith("ray::")] if self._children else [me]
        now = {"rss": 0, "own": 0}
        for process in found:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                continue
            lines = dict(line.split(":", 1) for line in status)
            for name, field in (("rss", "VmRSS"), ("own", "RssAnon")):
                now[name] = max(now[name], int(lines.get(field, "0 kB").split()[0]) // 1024)
        for name in now:
            self.peak[name] = max(self.peak[name], now[name])
        return now


def million(shards: Path, records: int) -> dict[str, Any]:
    """Seconds until a run over ``records`` records takes its first batch, and milliseconds for a block's frames and
    for its labels."""
    from ecgray.sampling.stream import open_stream
    from ecgray.training.labels import label_histogram

    times = [time.monotonic()]
    archive, plan, task = plan_of(shards)
    times.append(time.monotonic())
    label_histogram(archive, plan, task)
    times.append(time.monotonic())
    next(open_stream(archive, plan, task, backend="local", first_step=0, last_step=1000))
    times.append(time.monotonic())
    lanes = range(plan.sampling.lanes)
    blocks: list[float] = []
    labels: list[float] = []  # of blocks in new pools too, whose shards are opened then
    for step in range(1000, 33_000, 32):  # 8,192 frames each, every 4th in new pools
        before = time.perf_counter()
        frames = plan.frames(step, step + 32, lanes)
        blocks.append(1000 * (time.perf_counter() - before))
        if step < 5000:
            before = time.perf_counter()
            task.targets(*frames, plan.sampling.frame_size, archive)
            labels.append(1000 * (time.perf_counter() - before))
    return {
        "records": records,
        "open_and_plan_s": round(times[1] - times[0], 2),
        "label_histogram_s": round(times[2] - times[1], 2),
        "first_batch_s": round(times[3] - times[2], 2),
        "start_s": round(times[3] - times[0], 2),
        "frames_of_a_block_ms": _spread(blocks),
        "label_a_block_ms": _spread(labels),
        "peak_rss": Watched(False).look()["rss"],
    }


def _spread(times: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(times), 2),
        "95 %": round(float(np.quantile(times, 0.95)), 2),
        "worst": round(max(times), 2),
    }


def in_a_group(shards: Path, steps: int, limit_mb: int, believed_to_fit: bool) -> dict[str, Any]:
    """A stream over ``shards``, none of whose pages are in memory, in a control group of so much memory."""
    second = Path("/sys/fs/cgroup/cgroup.controllers").is_file()
    group = Path("/sys/fs/cgroup" if second else "/sys/fs/cgroup/memory") / f"ecgray-memory-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(limit_mb << 20))
        for file in shards.glob("*/signal.npy"):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = in_a_process("--limited", str(shards), str(steps), str(group / "cgroup.procs"), str(believed_to_fit))
    finally:
        group.rmdir()
    return {"limit_mb": limit_mb, "believed_to_fit": believed_to_fit} | found


def limited(shards: Path, steps: int, members: Path, believed_to_fit: bool) -> dict[str, Any]:
    """``stream`` in the group of ``members``, and what the disk read for it in MB."""
    from ecgray.shards import signals

    members.write_text(str(os.getpid()))
    if believed_to_fit:
        signals.memory_limit = lambda: 1 << 50
    found = stream(shards, steps, "local")
    return found | {"read_mb": resource.getrusage(resource.RUSAGE_SELF).ru_inblock // 2048}


def in_a_process(*words: str) -> dict[str, Any]:
    child = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def main() -> None:
    if sys.argv[1:2] == ["--stream"]:
        print(json.dumps(stream(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
        return
    if sys.argv[1:2] == ["--million"]:
        print(json.dumps(million(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    if sys.argv[1:2] == ["--limited"]:
        print(json.dumps(limited(Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5] == "True")))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", default="0.2,2")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--records", type=int, default=1_000_000, help="of the simulated archive; 0 leaves it out")
    parser.add_argument("--limit-mb", type=int, default=0, help="memory for a stream over 1 GB; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="ecgray-memory-") as name:
        for gb in arguments.gb.split(","):
            shards = simulate(Path(name) / gb, round(float(gb) * 1e9 / 2 / SAMPLES))
            for backend in ("local", "ray") if arguments.ray else ("local",):
                rows.append({"gb": float(gb)} | in_a_process("--stream", str(shards), str(arguments.steps), backend))
                print(json.dumps(rows[-1]), flush=True)
        if arguments.records:
            shards = simulate(Path(name) / "million", arguments.records)
            rows.append(in_a_process("--million", str(shards), str(arguments.records)))
            print(json.dumps(rows[-1]), flush=True)
        if arguments.limit_mb:
            shards = write_walks(Path(name) / "walks", megabytes=1000)
            for steps, believed in ((1000, False), (20, True)):
                rows.append(in_a_group(shards, steps, arguments.limit_mb, believed))
                print(json.dumps(rows[-1]), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "memory.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
