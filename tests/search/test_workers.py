"""Trials whose workers run on Ray Train: one that is stopped gives its reservation back, and the next one runs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import BaseTrial

from ecgray.recipes import SPACES
from ecgray.search.sweep import Resources, sweep


@pytest.mark.slow
def test_trials_with_two_workers_leave_nothing_reserved(two_cpus: None, make_sweep: Any, tmp_path: Path) -> None:
    import ray
    from ray.util import placement_group_table

    def suggest(trial: BaseTrial) -> None:
        trial.suggest_float("pretrain.optimiser.learning_rate", 1e-4, 100.0, log=True)

    points = ({"pretrain.optimiser.learning_rate": 1e-3}, {"pretrain.optimiser.learning_rate": 100.0})
    space = replace(SPACES["weimann2021_pretraining"], suggest=suggest, paper=points)
    sweep(space, make_sweep(trials=2), tmp_path / "sweep", resources=Resources(workers=2))
    rows = json.loads((tmp_path / "sweep" / "trials.json").read_text())
    assert [row["state"] for row in rows] == ["COMPLETE", "PRUNED"]
    starts = [
        json.loads((run / "environment.json").read_text())["starts"]
        for run in (tmp_path / "sweep" / "pretraining").glob("*/run")
    ]
    assert len(starts) == 2 and all(start["workers"] == 2 for run in starts for start in run)
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())
    deadline = time.monotonic() + 60  # the actor of the last trial is still on its way out
    while ray.available_resources().get("CPU") != 2.0:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)
