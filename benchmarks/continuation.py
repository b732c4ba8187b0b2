"""Kill a training run in many places, start it again, and compare it, file by file, with the run in which nobody died.

    python benchmarks/continuation.py [--tasks beat,future] [--workers 0,1,2,3] [--ray 1,2,3] [--out DIR]

Ranks are processes in a gloo group without Ray; ``--ray`` adds runs on Ray Train with those numbers of workers.
Workers 0 is ``pretrain`` in one process. A place is where SIGKILL comes; who dies is one worker, after which the others
fall by themselves or are ended, or all processes at once, as when a driver dies and takes its workers along. Equal
means: every file of every checkpoint (weights, optimiser, BatchNorm statistics and random state of every rank) has the
same bytes, ``best`` leads to the same one, and the metrics say the same, apart from timings.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch._dynamo  # which every optimiser imports, here once before the forks
import torch.distributed as dist

from ecgray.config import from_dict, to_dict
from ecgray.models import ResNet
from ecgray.sampling.plan import SamplingConfig, make_plan
from ecgray.shards.archive import open_archive
from ecgray.tasks import TASKS
from ecgray.training import checkpoint, loop, validation
from ecgray.training.config import DataConfig, PretrainConfig, TrainingConfig
from ecgray.training.distributed import Distributed
from ecgray.training.pretraining import pretrain
from ecgray.training.run import RunFolder
from ecgray.training.stopping import StopRequest

STEPS = 12
RAY_STEPS = 60
"""More on Ray, where the kills come from outside, one after another in one run."""
LEAVE_S = 20.0
"""How long the other ranks have to notice that one is gone."""
TIMINGS = ("frames_per_s", "waiting_for_data")
OWNERS: dict[str, Any] = {"Training": loop.Training, "loop": loop, "validation": validation, "checkpoint": checkpoint}


@dataclass(frozen=True)
class Place:
    """Death at a call: of ``function`` of ``owner``, the one with that number (from 1), ``when`` before it, after it,
    or amid it (a generator that has given its first item). ``writer``: on the rank that writes, else on the last.
    ``torn``: the newest checkpoint then loses the end of a file."""

    name: str
    owner: str
    function: str
    call: int
    when: str = "before"
    writer: bool = False
    torn: bool = False


def places(random_steps: int, seed: int = 0) -> list[Place]:
    """The places of the full table: in the first step, in validation, around a checkpoint, at random steps."""
    steps = np.sort(np.random.default_rng(seed).choice(np.arange(3, STEPS + 1), random_steps, replace=False)).tolist()
    return [
        Place("first step", "Training", "_step", 1, "after"),
        Place("validation", "validation", "validation_batches", 2, "amid"),
        Place("files unfinished", "loop", "save_optimiser", 2, writer=True),
        Place("before the marker", "checkpoint", "write_json", 6, writer=True),
        Place("torn after", "Training", "_step", 11, torn=True),
        *(Place(f"step {step}", "Training", "_step", step) for step in steps),
    ]


def small_config(shards: Path, task: str) -> PretrainConfig:
    """12 steps of 16 frames; a checkpoint every 3, a validation every 4, a log line every 5."""
    return PretrainConfig(
        recipe="continuation",
        data=DataConfig(shards=(str(shards),)),
        sampling=SamplingConfig(
            frame_size=256, frames_per_visit=16, pool_patients=3, val_fraction=0.25, val_frames_per_patient=5
        ),
        task=TASKS[task](),
        model=ResNet(width=8),
        training=TrainingConfig(
            steps=STEPS, batch_size=16, validate_every=4, checkpoint_every=3, log_every=5, keep_checkpoints=2, threads=1
        ),
    )


def kill_and_go_on(config: PretrainConfig, out: Path, ranks: int, place: Place, *, everyone: bool) -> str:
    """Run until the place, die, run again to the end; what went otherwise than planned, else ''."""
    died = start(config, out, ranks, place, everyone=everyone)
    doomed = 0 if place.writer else max(ranks, 1) - 1
    if died[doomed] != signal.SIGKILL or 0 in died:
        return f"not killed: {died}"
    if place.torn:
        newest = sorted((out / "checkpoints").iterdir())[-1] / "optimiser.safetensors"
        os.truncate(newest, newest.stat().st_size - 100)
    ended = start(config, out, ranks)
    return "" if not any(ended) else f"not resumed: {ended}"


def start(
    config: PretrainConfig, out: Path, ranks: int, place: Place | None = None, *, everyone: bool = False
) -> list[int]:
    """Fork the ranks (0: ``pretrain`` in one process) and wait for them; their exit statuses, signals as numbers."""
    meeting = Path(tempfile.mkdtemp(prefix="group-", dir=out.parent)) / "file"
    children = []
    for rank in range(max(ranks, 1)):
        child = os.fork()
        if child == 0:
            doomed = place is not None and rank == (0 if place.writer else max(ranks, 1) - 1)
            _child(config, out, rank, ranks, meeting, place if doomed else None)
        children.append(child)
    statuses: dict[int, int] = {}
    deadline = float("inf")
    while len(statuses) < len(children):
        for rank, child in enumerate(children):
            if rank not in statuses:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    statuses[rank] = os.waitstatus_to_exitcode(status)
        if any(statuses.values()) and deadline == float("inf"):
            deadline = time.monotonic() + (0.0 if everyone else LEAVE_S)
        if time.monotonic() >= deadline:
            for rank, child in enumerate(children):
                if rank not in statuses:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return [abs(statuses[rank]) for rank in range(len(children))]


def _child(config: PretrainConfig, out: Path, rank: int, ranks: int, meeting: Path, place: Place | None) -> NoReturn:
    status = 1
    try:
        quiet = os.open(os.devnull if place or ranks else f"{out}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(quiet, 2)  # ranks whose neighbour dies say so at length
        if place is not None:
            die_at(place)
        if ranks == 0:
            pretrain(config, out, resume=True, show_progress=False)
        else:
            train_rank(config, out, Distributed(rank, ranks), meeting)
        status = 0
    finally:
        os._exit(status)


def train_rank(config: PretrainConfig, out: Path, distributed: Distributed, meeting: Path) -> None:
    """One rank of a gloo group that meets in a file."""
    torch.set_num_threads(1)
    if distributed.size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=distributed.rank, world_size=distributed.size
        )
    run = RunFolder(out)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    archive = open_archive(config.data.shards)
    plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
    loop.Training(config, run, archive, plan, distributed, backend="local", stop=StopRequest()).go()
    if distributed.size > 1:
        dist.destroy_process_group()


def die_at(place: Place) -> None:
    """Put SIGKILL into the place."""
    owner, calls = OWNERS[place.owner], []
    plain: Callable[..., Any] = getattr(owner, place.function)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def first_item(items: Iterator[Any]) -> Iterator[Any]:
        yield next(items)
        die()

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        here = len(calls) == place.call
        if here and place.when == "before":
            die()
        result = plain(*arguments, **named)
        if here and place.when == "after":
            die()
        return first_item(result) if here and place.when == "amid" else result

    setattr(owner, place.function, counted)


def outcome(run: RunFolder) -> dict[str, Any]:
    """What two equal runs have in common: bytes of all checkpoints, the best one, the metrics."""
    files = sorted(file for file in run.checkpoints.rglob("*") if file.is_file())
    found: dict[str, Any] = {
        str(file.relative_to(run.checkpoints)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
    found["best"] = run.best.resolve().name
    lines = [{k: v for k, v in line.items() if k not in TIMINGS} for line in run.read_metrics()]
    return found | {f"{line['kind']} {line['step']}": line for line in lines} | {"lines": len(lines)}


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """'equal', or the names of what differs."""
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return "equal" if not names else f"DIFFERS: {', '.join(names[:4])}"


def matrix(
    shards: Path, folder: Path, tasks: list[str], workers: list[int], where: list[Place]
) -> Iterator[dict[str, Any]]:
    """A row per task, number of workers, place and who dies."""
    for task in tasks:
        config = small_config(shards, task)
        for ranks in workers:
            whole = folder / f"{task}-{ranks}"
            ended = start(config, whole, ranks)
            expected = outcome(RunFolder(whole)) if not any(ended) else {}
            for place in where:
                for everyone in (False, True) if ranks > 1 else (True,):
                    out = folder / f"{task}-{ranks}-{place.name.replace(' ', '-')}-{everyone}"
                    wrong = kill_and_go_on(config, out, ranks, place, everyone=everyone)
                    result = wrong or difference(expected, outcome(RunFolder(out)))
                    who = "all at once" if everyone else "one worker"
                    yield {"task": task, "workers": ranks, "place": place.name, "dies": who, "result": result}


def on_ray(shards: Path, folder: Path, task: str, workers: int, kills: int, seed: int) -> Iterator[dict[str, Any]]:
    """The same on Ray Train, from outside: SIGKILL of the last worker, and of the driver, at ``kills`` random steps of
    one run each, with a start of the same command after every death of the driver."""
    config = small_config(shards, task)
    config = replace(config, training=replace(config.training, steps=RAY_STEPS, log_every=1))
    expected: dict[str, Any] = {}
    draw = np.random.default_rng([seed, workers])
    for who in ("nobody", "a worker", "the driver"):
        run = RunFolder(folder / f"ray-{task}-{workers}-{who.replace(' ', '-')}")
        # In fifths of their own, so that every death but the first comes after new checkpoints.
        fifths = np.sort(draw.choice(np.arange(1, RAY_STEPS // 5), kills, replace=False))
        steps = 5 * fifths + draw.integers(0, 5, kills)
        killed, code = _killed_on_ray(config, run, workers, who, steps.tolist() if who != "nobody" else [])
        if who == "nobody":
            expected = outcome(run) if code == 0 else {}
            continue
        whole = len(killed) == kills and code == 0 and bool(expected)
        result = difference(expected, outcome(run)) if whole else f"killed {len(killed)} of {kills}, exit {code}"
        place = f"Ray, {kills} random steps"
        yield {"task": task, "workers": workers, "place": place, "dies": who, "result": result, "steps": killed}


def _killed_on_ray(
    config: PretrainConfig, run: RunFolder, workers: int, who: str, steps: list[int]
) -> tuple[list[int], int]:
    """(steps reached at each kill, exit code of the last driver) of one run; a dead driver is started again."""
    import psutil

    killed: list[int] = []
    while True:
        driver = _drive(config, run.path, workers)
        while driver.poll() is None:
            reached = run.read_metrics()[-1]["step"] if run.metrics.is_file() and run.read_metrics() else 0
            if len(killed) < len(steps) and reached >= steps[len(killed)]:
                pid = driver.pid if who == "the driver" else _last_worker(psutil.Process(driver.pid))
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(reached)
                    if who == "the driver":
                        break
            time.sleep(0.01)
        code = driver.wait()
        if code != -signal.SIGKILL:
            return killed, code


def _drive(config: PretrainConfig, out: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--drive", json.dumps(to_dict(config)), str(out), str(workers)]
    with open(f"{out}.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _last_worker(driver: Any) -> int | None:
    """The process of the newest training worker below the driver, None while there is none."""
    import psutil

    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in driver.children(recursive=True):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.append((child.create_time(), child.pid))
    return max(found)[1] if found else None


def write_shards(folder: Path) -> Path:
    """A shard set of 12 synthetic patients."""
    from ecgray.databases.synthesise import write_ambulatory
    from ecgray.databases.synthetic import Synthetic
    from ecgray.shards.ingest import ingest

    root = folder / "files"
    write_ambulatory(root, patients=12, segments_per_patient=2, segment_seconds=60, seed=1)
    ingest(Synthetic(), root, folder / "shards", workers=0, progress=False)
    return folder / "shards"


def table(rows: list[dict[str, Any]]) -> str:
    """Task and workers by place and who dies."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame["where"] = frame["place"] + ", " + frame["dies"]
    wide = frame.pivot(index=["task", "workers"], columns="where", values="result")
    return str(wide[list(dict.fromkeys(frame["where"]))].fillna("-").T.to_string())


def main() -> int:
    if sys.argv[1:2] == ["--drive"]:
        config = from_dict(PretrainConfig, json.loads(sys.argv[2]))
        pretrain(config, sys.argv[3], workers=int(sys.argv[4]), resume=True, show_progress=False)
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--workers", default="0,1,2,3")
    parser.add_argument("--places", default="", help="some of the places by name, all by default")
    parser.add_argument("--ray", default="", help="numbers of workers on Ray Train")
    parser.add_argument("--ray-kills", type=int, default=5, help="of a worker, and of the driver, in one run each")
    parser.add_argument("--steps", type=int, default=3, help="random steps beside the fixed places")
    parser.add_argument("--seed", type=int, default=0, help="of the random steps")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ecgray-continuation-") as name:
        shards = write_shards(Path(name))
        tasks, workers = (text.split(",") if text else [] for text in (arguments.tasks, arguments.workers))
        where = places(arguments.steps, arguments.seed)
        if arguments.places:
            where = [place for place in where if place.name in arguments.places.split(",")]
        in_process = matrix(shards, Path(name), tasks, [int(count) for count in workers], where)
        counts = [int(count) for count in arguments.ray.split(",")] if arguments.ray else []
        through_ray = (
            on_ray(shards, Path(name), task, count, arguments.ray_kills, arguments.seed)
            for task in tasks
            for count in counts
        )
        for row in itertools.chain(in_process, *through_ray):
            print(json.dumps(row), flush=True)
            rows.append(row)
            # As it comes: with Ray the whole table takes more than an hour.
            (arguments.out / "continuation.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    unequal = sum(row["result"] != "equal" for row in rows)
    kills = sum(len(row.get("steps", "1")) for row in rows)
    print(f"{kills} kills in {len(rows)} runs, {unequal} not equal")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
