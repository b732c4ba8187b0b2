"""Trials that lose their process or their machines, as Tune and Ray Train are told of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ecgray.errors import EcgrayError
from ecgray.search.deaths import RETRIES, Deaths
from ecgray.search.folder import SweepFolder
from ecgray.search.shared import Devices, SharedPretraining
from ecgray.training import ray_train


def test_deaths_with_a_checkpoint_between_them_are_forgotten(tmp_path: Path) -> None:
    deaths, run = Deaths(SweepFolder(tmp_path)), tmp_path / "pretraining" / "hash" / "run" / "checkpoints"
    trial = SimpleNamespace(trial_id="a", config={"number": 0}, run_metadata=SimpleNamespace(num_failures=0))
    (tmp_path / "trials" / "trial-0000").mkdir(parents=True)
    (tmp_path / "trials" / "trial-0000" / "pretraining").symlink_to("../../pretraining/hash")
    for step in range(4):
        trial.run_metadata.num_failures += 1
        assert trial.run_metadata.num_failures <= RETRIES, "Tune would give it up"
        deaths.on_trial_recover(step, [trial], trial)
        deaths.on_step_begin(step, [trial])
        assert trial.run_metadata.num_failures == 1, "nothing new yet"
        (run / f"step-{step}").mkdir(parents=True)
        (run / f"step-{step}" / "complete").touch()
        deaths.on_step_begin(step, [trial])
    trial.run_metadata.num_failures += 1
    deaths.on_trial_recover(9, [trial], trial)
    (run / "step-0" / "complete").unlink()
    deaths.on_step_begin(9, [trial])
    assert trial.run_metadata.num_failures == 1, "a checkpoint that goes is none that comes"


def test_a_trial_that_died_before_it_made_its_folder_leaves_its_reason(tmp_path: Path) -> None:
    trial = SimpleNamespace(trial_id="a", config={"number": 3}, get_error=lambda: "The actor died unexpectedly.")
    Deaths(SweepFolder(tmp_path)).on_trial_error(1, [trial], trial)
    assert "died unexpectedly" in (tmp_path / "trials" / "trial-0003" / "error.txt").read_text()


def test_the_pretraining_of_a_trial_waits_for_machines_that_are_away(
    make_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sweep began on a cluster that held it, and every stretch from rung to rung is a start of its own."""
    waited = []

    def wait_for_room(run: Any, where: Any, stop: Any, patient: bool) -> Any:
        waited.append(patient)
        raise EcgrayError("enough")

    monkeypatch.setattr(ray_train, "connected", contextlib.nullcontext)
    monkeypatch.setattr(ray_train, "_wait_for_room", wait_for_room)
    monkeypatch.setattr(ray_train, "ask_for", lambda bundles: None)
    config = make_sweep()
    shared = SharedPretraining(SweepFolder(tmp_path), config, config.pretrain, ["x"], Devices(workers=2))
    with pytest.raises(EcgrayError, match="enough"):
        shared.train_to(4)
    assert waited == [True]
