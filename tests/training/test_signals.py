"""Signals to real processes: once is a checkpoint and a way back, twice is the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ecgray.config import to_dict
from ecgray.training.checkpoint import newest_checkpoint
from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain
from ecgray.training.run import RunFolder

HANGS = """
import json, sys, time
import ecgray.models, ecgray.tasks
from ecgray.config import from_dict
from ecgray.training import loop
from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain

plain = loop.Training._step

def hang(self, batch):
    if self.state.step < 7:
        return plain(self, batch)
    print("here", flush=True)
    while not self._stop():
        time.sleep(0.01)
    print("asked", flush=True)
    while True:
        time.sleep(1)

loop.Training._step = hang
pretrain(from_dict(PretrainConfig, json.loads(sys.argv[1])), sys.argv[2], show_progress=False)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_second_signal_ends_a_run_that_does_not_come_to_an_end(
    name: str, make_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    number = signal.Signals[name]
    command = [sys.executable, "-c", HANGS, json.dumps(to_dict(make_config())), str(tmp_path / "run")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        os.kill(child.pid, number)
        assert child.stdout.readline() == "asked\n" and child.poll() is None
        os.kill(child.pid, number)
        assert child.wait(60) == -number
    finally:
        child.kill()
        child.wait()
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and newest.name == "step-000006"
    pretrain(make_config(), tmp_path / "run", resume=True, show_progress=False)


RANKS = """
import json, os, signal, sys, traceback
from pathlib import Path
import torch, torch.distributed as dist
import torch._dynamo  # optimisers import it: once, before the forks
import ecgray.models, ecgray.tasks
from ecgray.config import from_dict
from ecgray.sampling.plan import make_plan
from ecgray.shards.archive import open_archive
from ecgray.training import loop, validation
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed
from ecgray.training.run import RunFolder
from ecgray.training.stopping import RunStopped, StopRequest, stop_on_signals

plain, seen = validation.validation_batches, []

def signalled(step):
    # In the third batch of a validation, the one of that step; then counts how far it went.
    def batches(*arguments):
        for number, batch in enumerate(plain(*arguments)):
            yield batch
            seen.append(number)
            if number == 2 and training.state.step == step:
                os.kill(os.getpid(), signal.SIGTERM)
    return batches

config, out = from_dict(PretrainConfig, json.loads(sys.argv[1])), sys.argv[2]
os.makedirs(out + "/checkpoints", exist_ok=True)
for start, step in enumerate(json.loads(sys.argv[3])):
    children = []
    for rank in range(2):
        if child := os.fork():
            children.append(child)
            continue
        status, stop = 1, StopRequest()
        try:
            torch.set_num_threads(1)
            dist.init_process_group("gloo", init_method=f"file://{out}-{start}", rank=rank, world_size=2)
            if rank == 1:
                validation.validation_batches = signalled(step)
            archive = open_archive(config.data.shards)
            plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
            group = Distributed(rank, 2)
            training = loop.Training(config, RunFolder(Path(out)), archive, plan, group, backend="local", stop=stop)
            with stop_on_signals(stop):
                training.go()
            status = 0
        except RunStopped:
            status = 3 if training.state.step == step and (seen or [0])[-1] < 8 else 4
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
"""


def test_a_validation_is_left_at_a_signal_and_done_again_to_the_bit(
    make_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    """By two workers, one of which hears the signal while the other has a batch more; twice at one step; at the end."""
    config = make_config()
    sampling = replace(config.sampling, val_frames_per_patient=91)  # 35 batches
    config = replace(config, sampling=sampling)

    def start(name: str, *steps: int | None) -> list[str]:
        command = [sys.executable, "-c", RANKS, json.dumps(to_dict(config)), str(tmp_path / name), json.dumps(steps)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert child.returncode == 0 and "Traceback" not in child.stderr, child.stderr
        return child.stdout.splitlines()

    assert start("whole", None) == ["[0, 0]"]
    assert start("left", 4, 4, 12, None) == ["[3, 3]", "[3, 3]", "[3, 3]", "[0, 0]"]
    runs = [RunFolder(tmp_path / name) for name in ("whole", "left")]
    files = [sorted(f.relative_to(run.path) for f in run.checkpoints.rglob("*") if f.is_file()) for run in runs]
    assert files[0] == files[1] and len(files[0]) > 10
    for file in files[0]:
        assert (runs[0].path / file).read_bytes() == (runs[1].path / file).read_bytes(), file
    assert runs[0].best.resolve().name == runs[1].best.resolve().name
    timings = ("frames_per_s", "waiting_for_data")
    lines = [[{k: v for k, v in line.items() if k not in timings} for line in run.read_metrics()] for run in runs]
    assert lines[0] == lines[1]


def test_ctrl_c_at_the_command_line_and_resume(small_archive: Path, tmp_path: Path) -> None:
    sampling = {"frame-size": 256, "frames-per-visit": 16, "pool-patients": 3, "val-fraction": 0.25}
    training = {"log-every": 1, "checkpoint-every": 1000, "threads": 1}
    fields = {f"sampling.{k}": v for k, v in sampling.items()} | {f"training.{k}": v for k, v in training.items()}
    words = [f"--{name}={value}" for name, value in (fields | {"model.width": 8}).items()]

    def command(run: str, steps: int, *more: str) -> list[str]:
        start = [sys.executable, "-m", "ecgray", "pretrain", "weimann2021_beat", "--data", str(small_archive)]
        return [*start, "--out", str(tmp_path / run), *words, "--training.steps", str(steps), *more]

    run = RunFolder(tmp_path / "stopped")
    child = subprocess.Popen(command("stopped", 100_000), stderr=subprocess.PIPE, text=True)
    try:
        while len(run.read_metrics()) < 5:
            assert child.poll() is None
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    newest = newest_checkpoint(run.checkpoints)
    assert child.returncode == 2 and newest is not None
    step = int(newest.name.removeprefix("step-"))
    assert f"stopped by SIGINT after step {step} of 100000" in said and "Traceback" not in said and "--resume" in said

    for name, more in (("stopped", ["--resume"]), ("whole", [])):
        subprocess.run(command(name, step + 3, *more), check=True, stdout=subprocess.DEVNULL)
    for file in ("model", "optimiser", "rank-0"):
        one, other = (
            RunFolder(tmp_path / name).checkpoints / f"step-{step + 3:06d}" / f"{file}.safetensors"
            for name in ("stopped", "whole")
        )
        assert one.read_bytes() == other.read_bytes(), file
