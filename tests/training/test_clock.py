"""A clock that jumps by hours, forwards and backwards: while files are ingested, while a network is trained, and
between a kill and the start after it. What is written has the bytes of an untroubled clock.

The clock is moved under the whole process by libfaketime where it is installed, and otherwise for Python alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ecgray.config import to_dict
from ecgray.databases import CinC2017
from ecgray.shards.ingest import ingest
from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain
from ecgray.training.run import RunFolder

RECORDINGS = Path(__file__).parents[1] / "data" / "cinc2017"
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

PROCESS = """
import json, os, signal, sys, threading, time
from pathlib import Path

job = json.loads(sys.argv[1])
jumps, clock = job["jumps"], Path(job["clock"])
seen = []

def jump():
    # A new time of day at every call of what is watched; libfaketime reads it from the file.
    hours = jumps[len(seen) % len(jumps)]
    clock.write_text(f"{hours:+d}h")
    seen.append(time.time())
    return hours

if not job["library"]:
    plain, plain_ns = time.time, time.time_ns
    now = [0]
    time.time = lambda: plain() + 3600 * now[0]
    time.time_ns = lambda: plain_ns() + 3600 * 10**9 * now[0]
    held = jump
    def jump():
        now[0] = held()

def at_every_call(owner, name, last=None):
    inner, calls = getattr(owner, name), []
    def wrapped(*arguments, **named):
        jump()
        calls.append(1)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments, **named)
    setattr(owner, name, wrapped)

import ecgray.models, ecgray.tasks
import ecgray.shards.ingest as ingesting
from ecgray.config import from_dict
from ecgray.databases import CinC2017
from ecgray.training import loop
from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain

at_every_call(ingesting, "_read", job.get("die_at_record"))
at_every_call(loop.Training, "_step", job.get("die_at_step"))
if not (Path(job["shards"]) / "manifest.json").exists():
    ingesting.ingest(CinC2017(), job["root"], job["shards"], workers=0, progress=False, shard_mb=0.05)
pretrain(from_dict(PretrainConfig, job["config"]), job["out"], resume=True, show_progress=False)
assert max(seen) - min(seen) > 5 * 3600, seen  # the clock did jump
"""


def test_a_clock_that_jumps_changes_no_byte(tmp_path: Path, make_config: Callable[..., PretrainConfig]) -> None:
    config = make_config("beat")
    still, jumping = tmp_path / "still", tmp_path / "jumping"
    ingest(CinC2017(), RECORDINGS, still / "shards", workers=0, progress=False, shard_mb=0.05)
    pretrain(config, still / "run", show_progress=False)
    clock = tmp_path / "clock"
    faked = {
        "LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
    } if LIBRARIES else {}  # fmt: skip
    starts = (
        {"jumps": [3, -5, 1], "die_at_record": 15},
        {"jumps": [-30, 2, -9], "die_at_step": 8},
        {"jumps": [-2, 50, 4]},
    )
    for start in starts:
        clock.write_text(f"{start['jumps'][0]:+d}h")
        folders = {"root": str(RECORDINGS), "shards": str(jumping / "shards"), "out": str(jumping / "run")}
        job = start | folders | {"clock": str(clock), "library": bool(LIBRARIES), "config": to_dict(config)}
        command = [sys.executable, "-c", PROCESS, json.dumps(job)]
        child = subprocess.run(command, env=os.environ | faked, capture_output=True, text=True, timeout=600)
        assert child.returncode == (0 if start is starts[-1] else -signal.SIGKILL), child.stderr
    assert _bytes(jumping / "shards") == _bytes(still / "shards")
    assert _bytes(jumping / "run" / "checkpoints") == _bytes(still / "run" / "checkpoints")
    metrics = [RunFolder(folder / "run").read_metrics() for folder in (still, jumping)]
    timed = [line for line in metrics[1] if "frames_per_s" in line]
    assert timed and all(line["frames_per_s"] > 0 and 0 <= line["waiting_for_data"] <= 1 for line in timed)
    assert _untimed(metrics[0]) == _untimed(metrics[1])


def _untimed(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("frames_per_s", "waiting_for_data")} for line in metrics]


def _bytes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
