"""Records per second of a whole ingest, from WFDB files to a finished shard set, against a bare loop of wfdb.

    python benchmarks/ingest.py DATA [--databases icentia11k,mitdb,cinc2017] [--rounds 5] [--profile] [--out DIR]

DATA holds icentia11k/, mitdb/, cinc2017/ as PhysioNet has them. The loop is ``wfdb.rdrecord`` and ``wfdb.rdann`` over
the same files in one process, and keeps nothing. The ingest finds, reads, checks, hashes, writes and syncs: in this
process (workers 0) and on Ray with two workers in a cluster that is up. One segment of Icentia11K stands for 16
patients of 4: it is copied under their names. The rounds take turns, with the files in the page cache; what is printed
is the median, the ratio to the loop and the lowest and highest ratio of a round. "cpu" is the ratio of the processor
seconds of loop and ingest in one process, which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib.metadata
import json
import os
import pstats
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import wfdb

from ecgray.databases import DATABASES, Reference
from ecgray.shards.ingest import ingest

BARS = {"icentia11k": 8.0, "mitdb": 3.0, "cinc2017": 3.0}
"""Ratio of the ingest with two workers to the loop that is asked for on two cores."""
PATIENTS, SEGMENTS = 16, 4
MOST = 2000
"""Records of CinC2017 that are read; the loop takes some milliseconds each."""


def copies_of_a_segment(source: Path, root: Path) -> Path:
    """One segment as the segments of several patients, in Icentia11K's layout."""
    first = sorted(source.rglob("*_s*.hea"))[0]
    for patient in range(PATIENTS):
        folder = root / "p00" / f"p{patient:05d}"
        folder.mkdir(parents=True)
        for segment in range(SEGMENTS):
            name = f"p{patient:05d}_s{segment:02d}"
            (folder / f"{name}.hea").write_text(first.read_text().replace(first.stem, name))
            for suffix in (".dat", ".atr"):
                shutil.copy(first.with_suffix(suffix), folder / f"{name}{suffix}")
    return root


def part_of_cinc2017(source: Path, root: Path) -> Path:
    """The first records and the tables, hard linked where that is possible."""
    folder = source / "training2017"
    (root / "training2017").mkdir(parents=True)
    for table in folder.glob("REFERENCE*.csv"):
        shutil.copy(table, root / "training2017")
    for header in sorted(folder.glob("*.hea"))[:MOST]:
        for file in (header, header.with_suffix(".mat")):
            try:
                os.link(file, root / "training2017" / file.name)
            except OSError:
                shutil.copy(file, root / "training2017")
    return root


def with_wfdb(references: Sequence[Reference]) -> None:
    """The digital signal of every lead, and the annotations where there are any."""
    for reference in references:
        wfdb.rdrecord(str(reference.path), physical=False)
        if reference.path.with_suffix(".atr").exists():
            wfdb.rdann(str(reference.path), "atr")


def measure(name: str, root: Path, folder: Path, rounds: int, profile: bool) -> dict[str, Any]:
    database = DATABASES[name]()
    references = database.find(root)

    def with_ecgray(workers: int) -> Callable[[], None]:
        def run() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            ingest(database, root, folder, workers=workers, progress=False)

        return run

    ways = {"wfdb": lambda: with_wfdb(references), "workers 0": with_ecgray(0), "workers 2": with_ecgray(2)}
    wall: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            began, used = time.perf_counter(), time.process_time()
            run()
            wall[way].append(time.perf_counter() - began)
            cpu[way].append(time.process_time() - used)
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(ways["workers 0"])
        pstats.Stats(profiler).sort_stats("tottime").print_stats(18)
    count = len(references)
    row: dict[str, Any] = {"database": name, "records": count, "bar": BARS[name]}
    for way in ways:
        ratios = [loop / own for loop, own in zip(wall["wfdb"], wall[way], strict=True)]
        row[way] = {
            "records_per_s": round(count / statistics.median(wall[way]), 1),
            "ratio": round(statistics.median(ratios), 2),
            "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        }
        if way != "workers 2":  # whose seconds are those of other processes
            row[way]["cpu_ratio"] = round(statistics.median(cpu["wfdb"]) / statistics.median(cpu[way]), 2)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'database':<12}{'records':>8}{'way':>11}{'records/s':>11}{'ratio':>8}{'spread':>15}{'cpu':>7}{'bar':>6}"
    ]
    for row in rows:
        for way in ("wfdb", "workers 0", "workers 2"):
            one = row[way]
            low, high = one["spread"]
            bar = f"{row['bar']:g}" if way == "workers 2" else ""
            lines.append(
                f"{row['database']:<12}{row['records']:>8}{way:>11}{one['records_per_s']:>11,.0f}{one['ratio']:>8.2f}"
                f"{f'{low:.2f} - {high:.2f}':>15}{one.get('cpu_ratio', ''):>7}{bar:>6}"
            )
    return "\n".join(lines)


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--databases", default=",".join(BARS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="where an ingest in this process spends its time")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20)
    rows = []
    with tempfile.TemporaryDirectory(prefix="ecgray-ingest-") as folder:
        for name in given.databases.split(","):
            root = given.data / name
            if name == "icentia11k":
                root = copies_of_a_segment(root, Path(folder) / name)
            elif name == "cinc2017":
                root = part_of_cinc2017(root, Path(folder) / name)
            rows.append(measure(name, root, Path(folder) / "shards", given.rounds, given.profile))
            print(table(rows[-1:]), flush=True)
    ray.shutdown()
    print(table(rows))
    kept = {"rows": rows, "wfdb": importlib.metadata.version("wfdb"), "load": os.getloadavg()[0]}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "ingest.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
