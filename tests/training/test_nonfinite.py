"""A diverging run, through the command line: it stops at the step, and its frames go into 'ecgray label'."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

from ecgray.cli import main
from ecgray.errors import EcgrayError
from ecgray.sampling.plan import make_plan
from ecgray.shards.archive import open_archive
from ecgray.training import loop
from ecgray.training.config import OptimiserConfig, PretrainConfig
from ecgray.training.pretraining import pretrain
from ecgray.training.run import read_config

SETTINGS = (
    "--sampling.frame-size 256 --sampling.frames-per-visit 16 --sampling.pool-patients 3 --sampling.val-fraction 0.25 "
    "--sampling.val-frames-per-patient 5 --training.steps 9 --training.batch-size 32 --training.checkpoint-every 1 "
    "--training.threads 1 --model.width 8 --optimiser.learning-rate 1e25"
)


@pytest.mark.parametrize(("recipe", "task"), [("weimann2021_heart_rate", "heart_rate"), ("weimann2021_future", "beat")])
def test_from_a_diverging_run_to_a_picture_of_its_frames(
    recipe: str, task: str, small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "my run"
    assert main(["pretrain", recipe, "--data", str(small_archive), "--out", str(run), *SETTINGS.split()]) == 2
    said = capsys.readouterr().err
    step = int(re.findall(r"got nan or inf at step (\d+);", said)[0])
    assert step > 1 and f"The last good checkpoint is {run / 'checkpoints' / f'step-{step - 1:06d}'}." in said
    assert not (run / "checkpoints" / f"step-{step:06d}").exists() and "Traceback" not in said

    command = shlex.split(re.findall(r"`(ecgray label [^`]*)`", said)[0])
    assert command[command.index("--task") + 1] == task
    file, picture = (Path(command[command.index(word) + 1]) for word in ("--frames", "--plot"))
    assert main(command[1:]) == 0
    labels = capsys.readouterr().out.splitlines()
    assert labels[0] == "database,record,start,label" and len(labels) == 33
    assert imread(picture).shape[0] > 1000

    config, archive = read_config(run), open_archive([small_archive])
    record, start = make_plan(archive, config.sampling, config.task, 32).frames(step - 1, step, range(8))
    table = pd.read_csv(file, dtype=str)
    frames = sorted(zip(table["database"], table["patient"], table["record"], table["start"].astype(int), strict=True))
    assert frames == sorted(archive.provenance(record, start))


def test_the_frames_are_those_of_the_step_though_the_next_has_begun(
    make_config: Callable[..., PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, files = replace(make_config(steps=9), optimiser=OptimiserConfig(learning_rate=1e25)), []
    for lag in (0, 1):
        monkeypatch.setattr(loop, "LAG", {"cpu": lag})
        with pytest.raises(EcgrayError, match=r"at step 2; .*The last good checkpoint is none yet"):
            pretrain(config, tmp_path / str(lag), show_progress=False)
        files.append((tmp_path / str(lag) / "nonfinite-step-000002-rank-0.csv").read_bytes())
    assert files[0] == files[1]


def test_an_infinite_gradient_behind_a_finite_loss_stops_too(
    make_config: Callable[..., PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgray.training.objectives import CrossEntropy

    plain = CrossEntropy.losses
    monkeypatch.setattr(CrossEntropy, "losses", lambda *arguments: plain(*arguments) * 0)
    config = replace(make_config(steps=3), optimiser=OptimiserConfig(clip_norm=1.0))
    pretrain(config, tmp_path / "flat", show_progress=False)  # no gradient at all is no fault

    def infinite_slope(*arguments: object) -> object:
        losses = plain(*arguments)
        if losses.requires_grad:
            losses.register_hook(lambda gradient: gradient * float("inf"))
        return losses

    monkeypatch.setattr(CrossEntropy, "losses", infinite_slope)
    with pytest.raises(EcgrayError, match=r"at step 1; .*The last good checkpoint is none yet"):
        pretrain(config, tmp_path / "steep", show_progress=False)
    assert pd.read_csv(tmp_path / "steep" / "nonfinite-step-000001-rank-0.csv")["loss"].notna().all()


def test_infinite_weights_behind_a_finite_loss_and_gradient_are_never_saved(
    make_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    config = replace(make_config(steps=3, checkpoint_every=1), optimiser=OptimiserConfig(learning_rate=1e39))
    with pytest.raises(EcgrayError, match=r"weights .* after step 1, .*the last good checkpoint is none yet"):
        pretrain(config, tmp_path / "run", show_progress=False)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
