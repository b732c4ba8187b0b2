"""Signals to real processes: once is a checkpoint and a way back, twice is the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


def test_ctrl_c_at_the_command_line_and_resume(small_archive: Path, tmp_path: Path) -> None:
    sampling = {"frame-size": 256, "frames-per-visit": 16, "pool-patients": 3, "val-fraction": 0.25}
    training = {"log-every": 1, "checkpoint-every": 1000, "threads": 1}
    fields = {f"sampling.{k}": v for k, v in sampling.items()} | {f"training.{k}": v for k, v in training.items()}
    words = [f"--{name}={value}" for name, value in (fields | {"model.width": 8}).items()]

    def command(run: str, steps: int, *more: str) -> list[str]:
        start = [sys.executable, "-m", "ecgray.cli", "pretrain", "weimann2021_beat", "--data", str(small_archive)]
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
