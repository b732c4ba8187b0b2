"""Trials whose workers run on Ray Train: one that is stopped gives its reservation back, and the next one runs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import BaseTrial, TrialState, create_trial

from ecgray.recipes import SPACES
from ecgray.search.study import HISTORY, open_storage
from ecgray.search.sweep import Resources, sweep


@pytest.mark.slow
def test_trials_with_two_workers_leave_nothing_reserved(two_cpus: None, make_sweep: Any, tmp_path: Path) -> None:
    import ray
    from ray.util import placement_group_table

    out, rate = tmp_path / "sweep", "pretrain.optimiser.learning_rate"

    def suggest(trial: BaseTrial) -> None:
        trial.suggest_float(rate, 1e-4, 1e-2, log=True)

    points = tuple({rate: value} for value in (1e-3, 2e-3, 3e-3))
    space = replace(SPACES["weimann2021_pretraining"], suggest=suggest, paper=points)
    sweep(space, make_sweep(trials=1), out, resources=Resources(workers=2))
    study = optuna.load_study(
        study_name=json.loads((out / "sweep.json").read_text())["study"], storage=open_storage("sqlite", out)
    )
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={HISTORY: {"4": 1.0}}))  # beats any that comes
    sweep(space, make_sweep(trials=4), out, resources=Resources(workers=2), resume=True)
    rows = json.loads((out / "trials.json").read_text())
    assert [row["state"] for row in rows] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    assert all(set(row["probes"]) == {"4"} for row in rows), "the stopped ones have worked up to their rung"
    starts = [
        json.loads((run / "environment.json").read_text())["starts"] for run in (out / "pretraining").glob("*/run")
    ]
    assert len(starts) == 3 and all(start["workers"] == 2 for run in starts for start in run)
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())
    deadline = time.monotonic() + 60  # the actor of the last trial is still on its way out
    while ray.available_resources().get("CPU") != 2.0:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)
