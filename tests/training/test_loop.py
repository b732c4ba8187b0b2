"""The loop on a small shard set: it learns, it counts what counts, it stops in good order."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ecgray.config import to_dict
from ecgray.errors import EcgrayError
from ecgray.sampling.plan import make_plan
from ecgray.sampling.stream import validation_batches
from ecgray.shards.archive import Archive, open_archive
from ecgray.tasks.base import IGNORED
from ecgray.tasks.beat import Beat
from ecgray.training import loop
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed
from ecgray.training.loop import Training
from ecgray.training.model_folder import load_tensors, read_model
from ecgray.training.objectives import CrossEntropy, Objective
from ecgray.training.pretraining import pretrain
from ecgray.training.run import RunFolder
from ecgray.training.standardise import Standardise
from ecgray.training.stopping import StopRequest

MakeConfig = Callable[..., PretrainConfig]


def training_of(config: PretrainConfig, folder: Path) -> Training:
    archive = open_archive(config.data.shards)
    plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
    (folder / "checkpoints").mkdir(parents=True)
    return Training(config, RunFolder(folder), archive, plan, Distributed(), backend="local", stop=StopRequest())


@pytest.mark.parametrize("task", ["beat", "rhythm", "heart_rate", "future"])
def test_every_task_trains_and_its_run_can_be_loaded(task: str, make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(task, steps=4, accumulation=2, precision="bf16")
    run = RunFolder(pretrain(config, tmp_path / "run", show_progress=False))
    lines = run.read_metrics()
    assert [(line["kind"], line["step"]) for line in lines] == [("labels", 0), ("train", 4), ("validation", 4)]
    labels = lines[0]["histogram"]
    assert sum(labels.values()) == 32_768
    assert list(labels) == [*(config.task.classes or map(str, range(9))), "dropped"]
    assert lines[2]["frames"] == np.sum(lines[2]["confusion"])
    assert math.isfinite(lines[2]["loss"])
    assert list((run.path / "events").iterdir())
    network, description = read_model(run.best)
    assert description.task == config.task and description.frame_size == 256
    assert not network.training


def test_the_loss_falls_on_a_planted_signal(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sign_of_the_middle(self: Beat, record: Any, start: Any, frame_size: int, archive: Archive) -> Any:
        frames = archive.cut(record, start, frame_size)[:, 0]
        mean = frames.mean(1) - archive.baseline[record, 0]
        return np.where(mean > 0, 3, 1)

    monkeypatch.setattr(Beat, "targets", sign_of_the_middle)
    config = make_config(steps=60, batch_size=32, validate_every=60, log_every=20)
    lines = RunFolder(pretrain(config, tmp_path / "run", show_progress=False)).read_metrics()
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert next(line for line in lines if line["kind"] == "validation")["balanced_accuracy"] > 0.7


def test_the_gradient_is_that_of_the_counted_frames(make_config: MakeConfig, tmp_path: Path) -> None:
    """Against the mean loss of one plain forward, BatchNorm standing still, with frames dropped and in two parts."""
    config = make_config(accumulation=2)
    training = training_of(config, tmp_path)
    batch = next(validation_batches(training._archive, training._plan, config.task, 16))
    batch.target[[2, 3, 11]] = IGNORED
    training.network.eval()
    before = {name: parameter.detach().clone() for name, parameter in training.network.named_parameters()}
    signal = training._standardise(batch)
    kept = torch.from_numpy(batch.target != IGNORED)
    loss = torch.nn.functional.cross_entropy(training.network(signal)[kept], torch.from_numpy(batch.target)[kept])
    expected = torch.autograd.grad(loss, list(training.network.parameters()))
    training.optimiser = torch.optim.SGD(training.network.parameters(), lr=1.0)  # type: ignore[assignment]
    assert not training._take(training._step(batch))
    counted = int(kept.sum())
    assert training.state.counted == counted < len(batch)
    assert training.state.loss / counted == pytest.approx(loss.item(), rel=1e-5)
    for (name, parameter), gradient in zip(training.network.named_parameters(), expected, strict=True):
        torch.testing.assert_close(before[name] - parameter.detach(), gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("log_every", [1, 5])
def test_an_outcome_that_is_read_later_changes_nothing(
    log_every: int, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a step is begun before the one before it has been read."""
    config, rows = make_config(log_every=log_every), []
    for lag in (0, 1, 3):
        monkeypatch.setattr(loop, "LAG", {"cpu": lag})
        run = RunFolder(pretrain(config, tmp_path / str(lag), show_progress=False))
        timed = ("frames_per_s", "waiting_for_data")
        shown = [{key: row[key] for key in row if key not in timed} for row in run.read_metrics()]
        states = [file.read_bytes() for file in sorted(run.checkpoints.glob("*/*.safetensors"))]
        rows.append((shown, states))
    assert rows[0] == rows[1] == rows[2] and len(rows[0][1]) > 3
    logged = [row["step"] for row in rows[0][0] if row["kind"] == "train"]
    assert logged == sorted({*range(log_every, 13, log_every), 12})


def test_validation_equals_a_slow_loop(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(steps=4)
    run = RunFolder(pretrain(config, tmp_path / "run", show_progress=False))
    got = run.read_metrics()[-1]
    network, description = read_model(run.best)
    archive = open_archive(config.data.shards)
    plan = make_plan(archive, config.sampling, config.task, 16)
    standardise = Standardise(archive, description.mean_mv, description.sd_mv, torch.device("cpu"))
    pairs, losses = [], []
    for batch in validation_batches(archive, plan, config.task, 1):
        with torch.no_grad():
            logits = network(standardise(batch))[0]
        pairs.append((int(batch.target[0]), int(logits.argmax())))
        losses.append(-float(torch.log_softmax(logits, 0)[batch.target[0]]))
    recalls = []
    for wanted in {true for true, _ in pairs}:
        found = [predicted == wanted for true, predicted in pairs if true == wanted]
        recalls.append(sum(found) / len(found))
    assert got["frames"] == len(pairs)
    assert got["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert got["accuracy"] == pytest.approx(np.mean([true == predicted for true, predicted in pairs]))
    assert got["balanced_accuracy"] == pytest.approx(np.mean(recalls), rel=1e-6)


def test_the_best_checkpoint_has_the_highest_validation_accuracy(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([0.3, 0.6, 0.6, 0.5, 0.4, 0.2])
    plain = loop.validate

    def planned(*arguments: Any) -> Any:
        return replace(plain(*arguments), accuracy=next(accuracies))

    monkeypatch.setattr(loop, "validate", planned)
    config = make_config(steps=12, validate_every=2, checkpoint_every=4, keep_checkpoints=1)
    run = RunFolder(pretrain(config, tmp_path / "run", show_progress=False))
    assert run.best.resolve().name == "step-000004"
    assert sorted(folder.name for folder in run.checkpoints.iterdir()) == ["step-000004", "step-000012"]


def test_nan_stops_with_the_frames_written_out(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    plain = CrossEntropy.losses

    def poisoned(self: Objective, logits: torch.Tensor, target: torch.Tensor, weights: Any = None) -> torch.Tensor:
        losses = plain(self, logits, target, weights)  # type: ignore[arg-type]
        if logits.requires_grad:
            steps.append(1)
            if len(steps) == 5:
                losses = losses.clone()
                losses[7] = math.nan
        return losses

    monkeypatch.setattr(CrossEntropy, "losses", poisoned)
    config = make_config()
    with pytest.raises(EcgrayError, match=r"step 5; .*step-000004"):
        pretrain(config, tmp_path / "run", show_progress=False)
    table = pd.read_csv(tmp_path / "run" / "nonfinite-step-000005-rank-0.csv", dtype={"record": str})
    archive = open_archive(config.data.shards)
    plan = make_plan(archive, config.sampling, config.task, 16)
    record, start = plan.frames(4, 5, range(8))
    order = [7, *range(7), *range(8, 16)]  # the one without a loss first
    assert table["record"].tolist() == archive.record_id[record[order]].tolist()
    assert table["start"].tolist() == start[order].tolist()
    assert np.flatnonzero(table["loss"].isna()).tolist() == [0]
    assert not (tmp_path / "run" / "checkpoints" / "step-000006").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_a_checkpoint_and_leaves(name: str, make_config: MakeConfig, tmp_path: Path) -> None:
    script = """
import json, os, signal, sys
from ecgray.config import from_dict
from ecgray.training import loop
from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain
import ecgray.tasks, ecgray.models
plain = loop.Training._step
def step(self, batch):
    if self.state.step == 6:
        os.kill(os.getpid(), getattr(signal, sys.argv[3]))
    return plain(self, batch)
loop.Training._step = step
assert "ray" not in sys.modules
try:
    pretrain(from_dict(PretrainConfig, json.loads(sys.argv[1])), sys.argv[2], show_progress=False)
except ValueError as error:
    print(error)
assert "ray" not in sys.modules
"""
    arguments = [json.dumps(to_dict(make_config())), str(tmp_path / "run"), name]
    child = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    assert name in child.stdout and "after step 7 of 12" in child.stdout and "--resume" in child.stdout
    pretrain(make_config(), tmp_path / "run", resume=True, show_progress=False)
    pretrain(make_config(), tmp_path / "whole", show_progress=False)
    for name in ("model", "optimiser", "rank-0"):
        one, other = (
            load_tensors(tmp_path / run / "checkpoints" / "step-000012" / f"{name}.safetensors")
            for run in ("run", "whole")
        )
        assert all(torch.equal(one[key], other[key]) for key in one.keys() | other.keys())


def test_two_runs_of_one_config_are_equal_to_the_bit(make_config: MakeConfig, tmp_path: Path) -> None:
    config = replace(make_config("future", steps=3), objective=CrossEntropy(class_weights="balanced"))
    one, other = (
        load_tensors(pretrain(config, tmp_path / name, show_progress=False) / "best" / "model.safetensors")
        for name in "ab"
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_finished_run_is_left_alone_and_more_steps_go_on(make_config: MakeConfig, tmp_path: Path) -> None:
    run = RunFolder(pretrain(make_config(steps=4), tmp_path / "run", show_progress=False))
    lines = run.read_metrics()
    pretrain(make_config(steps=4), run.path, resume=True, show_progress=False)
    assert run.read_metrics() == lines
    pretrain(make_config(steps=6), run.path, resume=True, show_progress=False)
    assert run.read_metrics()[-1]["step"] == 6


def test_a_checkpoint_of_another_model_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    small = pretrain(make_config(steps=3), tmp_path / "small", show_progress=False)
    wide = make_config(steps=3)
    wide = replace(wide, model=replace(wide.model, width=16))
    large = pretrain(wide, tmp_path / "large", show_progress=False)
    weights = large / "checkpoints" / "step-000003" / "model.safetensors"
    weights.write_bytes((small / "checkpoints" / "step-000003" / "model.safetensors").read_bytes())
    with pytest.raises(EcgrayError, match="this very network"):
        read_model(weights.parent)


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"workers": 9}, "lanes"), ({"workers": -1}, "lanes"), ({"backend": "rai"}, "did you mean ray")],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    changes: dict[str, Any], match: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(EcgrayError, match=match):
        pretrain(make_config(), tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_missing_shards_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = replace(make_config(), data=replace(make_config().data, shards=(str(tmp_path / "nothing"),)))
    with pytest.raises(EcgrayError, match="nothing"):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
