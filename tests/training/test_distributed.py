"""Three processes in a gloo group, without Ray: gradients over uneven lanes, and a resume that rounds the same way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecgray.config import to_dict
from ecgray.training.config import PretrainConfig
from ecgray.training.model_folder import load_tensors

GROUPS = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
import torch, torch.distributed as dist
import torch._dynamo  # optimisers import it: once, before the forks
import ecgray.models, ecgray.tasks
from ecgray.config import from_dict
from ecgray.sampling.plan import make_plan
from ecgray.shards.archive import open_archive
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed
from ecgray.training.loop import Training
from ecgray.training.run import RunFolder
from ecgray.training.stopping import StopRequest

def work(rank, size, config, out, still):
    torch.set_num_threads(1)
    if size > 1:
        meeting = f"file://{out}.group-{config.training.steps}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    archive = open_archive(config.data.shards)
    plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
    group = Distributed(rank, size)
    training = Training(config, RunFolder(out), archive, plan, group, backend="local", stop=StopRequest())
    if still:
        training._wrapped.eval()
        training.optimiser = torch.optim.SGD(training.network.parameters(), lr=1e-3)
    training.go()
    assert training._wrapped is training.network  # no DDP is left to end the group, which could wait for ever
    if size > 1:
        dist.destroy_process_group()

for name, size, steps, still in json.loads(sys.argv[3]):
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
                work(rank, size, config, out, still)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    print(name, [os.waitpid(child, 0)[1] for child in children], flush=True)
"""


def groups(config: PretrainConfig, out: Path, *starts: tuple[str, int, int, bool]) -> None:
    """Each start is (run, ranks, steps, with BatchNorm standing still and plain gradient descent)."""
    child = subprocess.run(
        [sys.executable, "-c", GROUPS, json.dumps(to_dict(config)), str(out), json.dumps(starts)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines() == [f"{name} {[0] * size}" for name, size, _, _ in starts], child.stderr


@pytest.mark.parametrize("accumulation", [1, 2])
def test_uneven_lanes_give_the_gradient_of_the_whole_batch(
    accumulation: int, make_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    config = make_config(accumulation=accumulation, checkpoint_every=2, validate_every=100)
    groups(config, tmp_path, ("one", 1, 2, True), ("three", 3, 2, True))
    one, three = (
        load_tensors(tmp_path / name / "checkpoints" / "step-000002" / "model.safetensors") for name in ("one", "three")
    )
    for key in one:
        torch.testing.assert_close(one[key], three[key], rtol=1e-4, atol=1e-6)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "three")]
    losses = [json.loads(line[-2])["loss"] for line in lines]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_three_ranks_resume_to_the_bit(make_config: Callable[..., PretrainConfig], tmp_path: Path) -> None:
    config = make_config(checkpoint_every=3, validate_every=100, accumulation=2)
    config = replace(config, model=replace(config.model, width=32))  # enough for several buckets of gradients
    groups(config, tmp_path, ("whole", 3, 6, False), ("parts", 3, 3, False), ("parts", 3, 6, False))
    for file in ("model", "optimiser", "rank-0", "rank-1", "rank-2"):
        one, other = (
            load_tensors(tmp_path / name / "checkpoints" / "step-000006" / f"{file}.safetensors")
            for name in ("whole", "parts")
        )
        assert all(torch.equal(one[key], other[key]) for key in one.keys() | other.keys()), file
