"""Trials whose workers run on Ray Train: one that is stopped gives its reservation back, and the next one runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import BaseTrial

from ecgray.recipes import SPACES
from ecgray.search.sweep import Resources, sweep


@pytest.fixture
def two_cpus() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, dashboard_host="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()


def test_trials_with_two_workers_leave_nothing_reserved(two_cpus: None, make_sweep: Any, tmp_path: Path) -> None:
    import ray
    from ray.util import placement_group_table

    def suggest(trial: BaseTrial) -> None:
        trial.suggest_float("pretrain.optimiser.learning_rate", 1e-4, 100.0, log=True)

    points = ({"pretrain.optimiser.learning_rate": 1e-3}, {"pretrain.optimiser.learning_rate": 100.0})
    space = replace(SPACES["weimann2021_pretraining"], suggest=suggest, paper=points)
    sweep(space, make_sweep(trials=2), tmp_path / "sweep", resources=Resources(workers=2))
    rows = json.loads((tmp_path / "sweep" / "trials.json").read_text())
    assert rows[0]["state"] == "COMPLETE" and rows[1]["state"] in ("COMPLETE", "PRUNED")
    starts = [
        json.loads((run / "environment.json").read_text())["starts"]
        for run in (tmp_path / "sweep" / "pretraining").glob("*/run")
    ]
    assert len(starts) == 2 and all(start["workers"] == 2 for run in starts for start in run)
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())
    assert ray.available_resources()["CPU"] == 2.0
