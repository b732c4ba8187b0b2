"""SIGKILL at many places, then resume: the bits of the run that was not killed.

One fresh process imports everything and forks a child per start, so that a place costs a second and not an import.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgray.config import to_dict
from ecgray.training.config import PretrainConfig
from ecgray.training.model_folder import load_tensors
from ecgray.training.run import RunFolder

FORKS = """
import json, os, signal, sys
from pathlib import Path
import torch._dynamo  # optimisers import it: once, before the forks
import ecgray.models, ecgray.tasks
from ecgray.config import from_dict
from ecgray.training import checkpoint, loop
from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def die_on_call(module, name, number, after=False):
    # On the call with that number (from 1): before it, or after it has done its work.
    plain, calls = getattr(module, name), []
    def counted(*arguments, **named):
        calls.append(1)
        if len(calls) == number and not after:
            die()
        result = plain(*arguments, **named)
        if len(calls) == number:
            die()
        return result
    setattr(module, name, counted)

def start(config, out, place):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        if place:
            owner = {"loop": loop, "checkpoint": checkpoint, "Training": loop.Training, "Path": Path}[place[0]]
            die_on_call(owner, *place[1:])
        pretrain(from_dict(PretrainConfig, config), out, resume=True, show_progress=False)
        status = 0
    finally:
        os._exit(status)

root = Path(sys.argv[2])
for name, (config, place) in json.loads(sys.argv[1]).items():
    died = start(config, root / name, place)
    print(name, died, start(config, root / name, None) if place else "-", flush=True)
"""

STEPS = sorted(np.random.default_rng(7).choice(np.arange(2, 12), 3, replace=False).tolist())
PLACES: dict[str, list[object]] = {
    "first step": ["Training", "_step", 1, True],
    **{f"step {step}": ["Training", "_step", step] for step in STEPS},
    "in validation": ["loop", "validate", 2],
    "files unfinished": ["loop", "save_optimiser", 2],
    "before the rename": ["Path", "rename", 4],
    "before the marker": ["checkpoint", "write_json", 6],
    "after the best": ["loop", "prune_checkpoints", 2],
}


@pytest.mark.parametrize("task", ["beat", "future"])
def test_killed_anywhere_and_resumed_is_equal_to_the_bit(
    task: str, make_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    config = to_dict(make_config(task))
    places = PLACES if task == "beat" else {name: PLACES[name] for name in ("in validation", "before the marker")}
    starts = {"whole": (config, None)} | {name: (config, place) for name, place in places.items()}
    child = subprocess.run(
        [sys.executable, "-c", FORKS, json.dumps(starts), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr
    said = [line.rsplit(" ", 2) for line in child.stdout.splitlines()]
    assert said == [["whole", "0", "-"], *([name, "9", "0"] for name in places)], child.stderr

    def outcome(name: str) -> tuple[dict[str, torch.Tensor], list[dict[str, object]]]:
        run = RunFolder(tmp_path / name)
        folder = run.checkpoints / "step-000012"
        assert sorted(f.name for f in run.checkpoints.iterdir()) == kept
        tensors = {
            f"{file.stem}/{key}": tensor
            for file in folder.glob("*.safetensors")
            for key, tensor in load_tensors(file).items()
        }
        timings = ("frames_per_s", "waiting_for_data")
        return tensors, [{k: v for k, v in line.items() if k not in timings} for line in run.read_metrics()]

    kept = sorted(f.name for f in (tmp_path / "whole" / "checkpoints").iterdir())
    tensors, metrics = outcome("whole")
    assert any("running_var" in key for key in tensors) and any("exp_avg_sq" in key for key in tensors)
    for name in places:
        got, its_metrics = outcome(name)
        assert got.keys() == tensors.keys()
        differing = [key for key in tensors if not torch.equal(tensors[key], got[key])]
        assert not differing, (name, differing[:3])
        assert its_metrics == metrics, name
