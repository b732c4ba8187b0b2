"""Two workers on Ray Train, one of them killed in the middle: the bits of the run in which nobody died."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ecgray.training.config import PretrainConfig
from ecgray.training.model_folder import load_tensors
from ecgray.training.pretraining import pretrain
from ecgray.training.run import RunFolder


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2")
    ray.init(num_cpus=2, dashboard_host="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()


def test_a_killed_worker_costs_no_bit(
    two_cpus: None, make_config: Callable[..., PretrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=20)
    pretrain(config, tmp_path / "whole", workers=2)
    said = capsys.readouterr().err
    assert all(f" step {step}: validation loss" in said for step in range(4, 21, 4)), (
        "the driver hears the first worker"
    )
    assert "20 steps of 16 frames on 2 workers of Ray; writes to" in said and "done: 20 steps; accuracy" in said

    killed: list[int] = []
    run = RunFolder(tmp_path / "killed")

    def kill_the_first_worker() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if (run.checkpoints / "step-000006" / "complete").is_file():
                killed.append(int((run.path / "writer.lock").read_text()))
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_the_first_worker)
    killer.start()
    pretrain(config, run.path, workers=2, show_progress=False)
    killer.join()
    assert killed and int((run.path / "writer.lock").read_text()) != killed[0]
    for file in ("model", "optimiser", "rank-0", "rank-1"):
        for step in (18, 20):
            one, other = (
                load_tensors(tmp_path / name / "checkpoints" / f"step-{step:06d}" / f"{file}.safetensors")
                for name in ("whole", "killed")
            )
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one), (file, step)
    # Where no validation came between, each rank has BatchNorm statistics of its own.
    buffers = [load_tensors(run.checkpoints / "step-000018" / f"rank-{rank}.safetensors") for rank in (0, 1)]
    assert any(not torch.equal(buffers[0][key], buffers[1][key]) for key in buffers[0] if "running" in key)
    assert not (run.path / "ray").exists()
