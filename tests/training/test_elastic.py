"""The number of workers changes nothing but the order of sums: shown in float64 with BatchNorm standing still."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecgray.config import to_dict
from ecgray.sampling.plan import make_plan
from ecgray.shards.archive import open_archive
from ecgray.training.config import PretrainConfig
from ecgray.training.run import RunFolder

GROUPS = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
import torch, torch._dynamo, torch.distributed as dist
from torch.nn import functional as F
import ecgray.models, ecgray.tasks
from ecgray.config import from_dict
from ecgray.sampling.plan import make_plan
from ecgray.shards.archive import open_archive
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed
from ecgray.training.loop import Training
from ecgray.training.objectives import CrossEntropy
from ecgray.training.run import RunFolder
from ecgray.training.standardise import Standardise
from ecgray.training.stopping import StopRequest

class Traced(Training):
    def _step(self, batch):
        with open(self._run.path / f"frames-{self._distributed.rank}", "a") as file:
            file.writelines(f"{self.state.step},{r},{s}\\n" for r, s in zip(batch.record, batch.start))
        return super()._step(batch)

def double(self, logits, target, weights=None):
    return F.cross_entropy(logits, target, reduction="none", ignore_index=-1)

def work(rank, size, config, out):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    CrossEntropy.losses, plain = double, Standardise.__call__
    Standardise.__call__ = lambda self, batch: plain(self, batch).double()
    if size > 1:
        meeting = f"file://{out}.group-{config.training.steps}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    archive = open_archive(config.data.shards)
    plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
    group = Distributed(rank, size)
    training = Traced(config, RunFolder(out), archive, plan, group, backend="local", stop=StopRequest())
    assert next(training.network.parameters()).dtype == torch.float64
    training._wrapped.eval()
    training.go()
    assert training._wrapped is training.network  # no DDP is left to end the group, which could wait for ever
    if size > 1:
        dist.destroy_process_group()

for name, size, steps in json.loads(sys.argv[3]):
    config = from_dict(PretrainConfig, json.loads(sys.argv[1]))
    config = replace(config, training=replace(config.training, steps=steps))
    out = Path(sys.argv[2]) / name
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work(rank, size, config, out)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert not any(os.waitpid(child, 0)[1] for child in children), name
"""


def test_one_and_four_workers_have_one_loss_curve_also_when_they_change_at_a_resume(
    make_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    config = make_config(steps=50, log_every=1, validate_every=100, checkpoint_every=25)
    config = replace(config, sampling=replace(config.sampling, frame_size=128))
    starts = [("one", 1, 50), ("four", 4, 50), ("changed", 1, 25), ("changed", 4, 50)]
    child = subprocess.run(
        [sys.executable, "-c", GROUPS, json.dumps(to_dict(config)), str(tmp_path), json.dumps(starts)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr

    archive = open_archive(config.data.shards)
    plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
    planned = [
        sorted(zip(*(column.tolist() for column in plan.frames(step, step + 1, range(8))), strict=True))
        for step in range(50)
    ]
    losses = {}
    for name in ("one", "four", "changed"):
        run = RunFolder(tmp_path / name)
        losses[name] = np.array([line["loss"] for line in run.read_metrics() if line["kind"] == "train"])
        assert len(losses[name]) == 50
        rows = np.concatenate([np.loadtxt(file, np.int64, delimiter=",") for file in run.path.glob("frames-*")])
        taken = [sorted(map(tuple, rows[rows[:, 0] == step, 1:].tolist())) for step in range(50)]
        assert taken == planned, name
    assert losses["one"][-10:].mean() < losses["one"][:10].mean()
    assert losses["four"] == pytest.approx(losses["one"], rel=0, abs=1e-9)
    assert losses["changed"] == pytest.approx(losses["one"], rel=0, abs=1e-9)
