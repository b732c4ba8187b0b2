"""SIGINT or SIGTERM to the driver of two workers on Ray: once is a checkpoint and a way back, twice is the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecgray.training.checkpoint import newest_checkpoint
from ecgray.training.run import RunFolder


@pytest.mark.slow
def test_a_signal_to_the_driver_stops_all_workers_and_two_end_it(small_archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    run = RunFolder(tmp_path / "run")
    words = ["--sampling.frame-size", "256", "--sampling.frames-per-visit", "16", "--sampling.pool-patients", "3"]
    words += ["--sampling.val-fraction", "0.25", "--model.width", "8", "--training.log-every", "1"]
    words += ["--training.checkpoint-every", "100000", "--training.validate-every", "100000", "--training.threads", "1"]
    command = [sys.executable, "-m", "ecgray", "pretrain", "weimann2021_beat", "--data", str(small_archive)]
    command += ["--out", str(run.path), *words, "--workers", "2", "--backend", "local", "--resume"]

    def driver(steps: int) -> subprocess.Popen[str]:
        """A driver whose workers have come two steps further than the run was."""
        before = len(run.read_metrics())
        child = subprocess.Popen([*command, "--training.steps", str(steps)], stderr=subprocess.PIPE, text=True)
        while len(run.read_metrics()) < before + 2 and child.poll() is None:
            time.sleep(0.05)
        return child

    child = driver(100_000)
    try:
        os.kill(child.pid, signal.SIGTERM)
        _, said = child.communicate(timeout=120)
    finally:
        child.kill()
        child.wait()
    newest = newest_checkpoint(run.checkpoints)
    assert child.returncode == 2 and newest is not None, said
    step = int(newest.name.removeprefix("step-"))
    assert run.read_metrics()[-1]["step"] == step
    line = next(line for line in said.splitlines() if line.startswith("ecgray: "))
    assert f"stopped by SIGTERM after step {step} of 100000, and {newest} holds all of it" in line

    child = driver(100_000)
    try:
        while child.poll() is None:  # again, once the first one was heard
            os.kill(child.pid, signal.SIGINT)
            time.sleep(0.1)
        assert child.returncode == -signal.SIGINT
    finally:
        child.kill()
        child.communicate()
    assert newest_checkpoint(run.checkpoints) == newest

    child = driver(step + 3)
    _, said = child.communicate(timeout=180)
    assert child.returncode == 0, said
    assert newest_checkpoint(run.checkpoints) == run.checkpoints / f"step-{step + 3:06d}"
