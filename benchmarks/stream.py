"""Frames per second that the stream delivers, beside a bare numpy loop, a map-style DataLoader, and other libraries.

    python benchmarks/stream.py [--settings 2048,future] [--repeats 3] [--peers PYTHON]

All methods deliver the same frames of the same plan, int16 with targets and fully mixed over patients, in batches of
256, to this process and to a Ray Train worker. A row's "of the loop" compares round by round with the loop in the same
process. The first Ray stream of a new cluster is measured by itself. ``--peers`` names the Python of an environment
with litdata and mosaicml-streaming (``make bench-peers`` makes one): they take the place of the DataLoader, and the
result is kept as peers.json.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from deliveries import BATCH, SETTINGS, Deliveries
from delivery import measure
from measure import Bar, Spread, in_turn, keep, show_bars, show_table, words
from peers import PACKAGES, Peers
from walks import write_walks

Runs = dict[str, list[dict[str, float]]]
OURS = ("loop", "local", "ray")
LOADERS = ("loader 0", "loader 2", "loader 0, targets given", "loader 2, targets given")
PLACES = {"driver": "this process", "worker": "a Ray Train worker"}
SETS = {1: {"samples": 1 << 20, "fs": 250.0, "share": 1.0}, 12: {"samples": 60_000, "fs": 500.0, "share": 0.5}}


def compare(name: str, config: dict[str, Any], others: tuple[str, ...]) -> Runs:
    """Runs of the loop, the streams and ``others`` (DataLoaders, and the peers where there are any), in turn."""
    deliveries, copy = Deliveries(SETTINGS[name], config["shards"][name]), config["copy"]
    methods: dict[str, Callable[[], dict[str, float]]] = {
        "loop": lambda: measure(deliveries.loop(), copy),
        "local": lambda: measure(deliveries.local(), copy),
        "ray": lambda: measure(deliveries.ray(), copy),
    }
    if not config["peers"]:
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            for other in others:
                words = (name, config["shards"][name], other, copy)
                methods[other] = lambda words=words: apart.submit(load, *words).result()  # type: ignore[misc]
            return in_turn(methods, config["repeats"])
    peers, folder = Peers(config["peers"]), Path(config["folder"]) / "frames" / name
    if not folder.is_dir():
        peers.write(folder, *deliveries.written())
    for library in PACKAGES:
        for workers in (0, 2):
            methods[f"{library} {workers}"] = lambda n=library, w=workers: peers.deliver(folder, n, w, BATCH, copy)  # type: ignore[misc]
    try:
        return in_turn(methods, config["repeats"])
    finally:
        peers.close()


def load(name: str, shards: str, method: str, copy: bool) -> dict[str, float]:
    """A DataLoader, in a process of its own that Ray does not know: beside one whose workers fork from it, Ray was seen
    to keep what this process had freed for a minute, until the store overflowed onto the disk."""
    workers, given = int(method.split()[1].rstrip(",")), method.endswith("given")
    return measure(Deliveries(SETTINGS[name], shards).loader(workers, given), copy)


def first_batch(name: str, shards: str) -> float:
    """Seconds to the first batch of a Ray stream, which is taken to its end: Ray kills the tasks of one that is not."""
    return measure(Deliveries(SETTINGS[name], shards).ray())["first_s"]


def everything(config: dict[str, Any]) -> dict[str, Any]:
    """All settings in this process, be it a driver or the worker of a trainer."""
    first = config["settings"][0]
    cold = first_batch(first, config["shards"][first])
    return {"cold_s": cold, "runs": {name: compare(name, config, config["others"]) for name in config["settings"]}}


def in_worker(config: dict[str, Any], cpus: float, folder: Path) -> dict[str, Any]:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        everything,
        train_loop_config=config | {"others": ()},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(name="bench-stream", storage_path=str(folder)),
    )
    found: dict[str, Any] = trainer.fit().return_value
    return found


def rows_of(place: str, setting: str, runs: Runs) -> list[dict[str, Any]]:
    loop = [run["whole"] for run in runs["loop"]]
    rows = []
    for method, measured in runs.items():
        whole, sustained = ([run[key] for run in measured] for key in ("whole", "sustained"))
        spreads = {
            "frames_per_s": Spread.of(whole),
            "sustained": Spread.of(sustained),
            "of_loop": Spread.ratio(whole, loop),
            "first_s": Spread.of(run["first_s"] for run in measured),
        }
        rows.append({"place": place, "setting": setting, "method": method} | {k: vars(v) for k, v in spreads.items()})
    return rows


def bars_of(places: dict[str, dict[str, Any]], name: str) -> list[Bar]:
    """The bars of one setting: ours against the loop where it is, and against the fastest of each other kind."""
    bars = []
    for place, found in places.items():
        runs: Runs = found["runs"][name]

        def best(*methods: str, runs: Runs = runs) -> list[float]:
            return [max(values) for values in zip(*([run["whole"] for run in runs[m]] for m in methods), strict=True)]

        where = f"{SETTINGS[name].name} in {PLACES[place]}"
        local, ray, loop = best("local"), best("ray"), best("loop")
        bars.append(Bar(f"{where}: local / loop", Spread.ratio(local, loop).median, least=0.9))
        bars.append(Bar(f"{where}: Ray Data / loop", Spread.ratio(ray, loop).median, least=0.6))
        if place == "worker":
            bars.append(Bar(f"{where}: Ray Data, frames/s", Spread.of(ray).median, least=150_000))
        if "loader 0" in runs:
            loaders = best("loader 0", "loader 2")
            bars.append(Bar(f"{where}: local / DataLoader", Spread.ratio(local, loaders).median, least=3))
            bars.append(Bar(f"{where}: Ray Data / DataLoader", Spread.ratio(ray, loaders).median, least=3))
        for library in PACKAGES:
            if f"{library} 0" in runs:
                other = best(f"{library} 0", f"{library} 2")
                bars.append(Bar(f"{where}: local / {library}", Spread.ratio(local, other).median, least=2))
                bars.append(Bar(f"{where}: Ray Data / {library}", Spread.ratio(ray, other).median, least=1.5))
        warm = Spread.of(run["first_s"] for run in runs["ray"])
        bars.append(Bar(f"{where}: first batch in a warm cluster, s", warm.high, most=3))
        bars.append(Bar(f"{where}: first batch in a cold cluster, s", found["cold_s"], most=8))
    return bars


def show(rows: list[dict[str, Any]]) -> None:
    columns = ("where", "frames", "method", "frames/s (range)", "of the loop (range)", "sustained", "first batch, s")
    cells = []
    for row in rows:
        rate, ratio, sustained, first = (Spread(**row[k]) for k in ("frames_per_s", "of_loop", "sustained", "first_s"))
        where = PLACES[row["place"]]
        numbers = (rate.show(",.0f"), ratio.show(), f"{sustained.median:,.0f}", f"{first.median:.3f}")
        cells.append((where, row["setting"], row["method"], *numbers))
    show_table("Labelled frames delivered, whole run, median of rounds", columns, cells, left=3)


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the single-lead shard set")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--worker-cpus", type=float, default=0.5, help="of the Ray Train worker; 0 leaves it out")
    parser.add_argument("--copy", action="store_true", help="the consumer copies every batch once")
    parser.add_argument("--shards", type=Path, help="keep the shard sets here and use them again")
    parser.add_argument("--peers", type=Path, help="Python of an environment with litdata and mosaicml-streaming")
    given = parser.parse_args()
    folder = given.shards or Path(tempfile.mkdtemp(prefix="ecgray-bench-"))
    try:
        places = run(given, given.settings.split(","), folder)
    finally:
        if not given.shards:
            shutil.rmtree(folder)
    rows = []
    for place, found in places.items():
        for name, runs in found["runs"].items():
            rows += rows_of(place, SETTINGS[name].name, runs)
    show(rows)
    names = given.settings.split(",")
    bars = bars_of(places, "2048" if "2048" in names else names[0])
    show_bars(bars)
    kept: dict[str, Any] = {"rows": rows, "cold_first_s": {p: found["cold_s"] for p, found in places.items()}}
    if given.peers:
        peers = Peers(given.peers)
        kept["peers"] = peers.versions
        peers.close()
    keep(given.out, "peers" if given.peers else "stream", kept, bars)


def run(given: Any, names: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Everything in the worker of one new cluster and in the driver of another."""
    import ray

    shards = {}
    for name in names:
        leads = SETTINGS[name].leads
        size, path = SETS[leads], folder / f"{leads}-lead"
        if not (path / "manifest.json").exists():
            megabytes = 1000 * size["share"] * given.gb
            write_walks(path, leads=leads, megabytes=megabytes, samples=int(size["samples"]), fs=size["fs"])
        shards[name] = str(path)
    config = {
        "shards": shards,
        "settings": names,
        "repeats": given.repeats,
        "copy": given.copy,
        "folder": str(folder),
        "peers": str(given.peers.absolute()) if given.peers else None,
        "others": () if given.peers else LOADERS,
    }
    places = {}
    for place in ("worker", "driver"):
        if place == "worker" and not given.worker_cpus:
            continue
        ray.init(num_cpus=2, log_to_driver=False, dashboard_host="127.0.0.1")
        try:
            inside = place == "worker"
            places[place] = in_worker(config, given.worker_cpus, folder / "train") if inside else everything(config)
        finally:
            ray.shutdown()
    return places


if __name__ == "__main__":
    main()
