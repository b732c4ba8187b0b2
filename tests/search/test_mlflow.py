"""A sweep's trials as MLflow has them, read back from a store of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from ecgray.errors import EcgrayError
from ecgray.search.mlflow_runs import TRIAL, MlflowRuns
from ecgray.search.study import HISTORY, OBJECTIVES

tracking = pytest.importorskip("mlflow.tracking")
NAME, SCORE = "ecgray-test", OBJECTIVES["score"]


@pytest.fixture
def study() -> optuna.Study:
    """A trial that came to its end, one that was stopped, one that failed and one that is at work."""
    made = optuna.create_study(direction="maximize")
    for state, value in ((TrialState.COMPLETE, 0.7), (TrialState.PRUNED, None), (TrialState.FAIL, None)):
        trial = made.ask()
        trial.suggest_float("pretrain.optimiser.learning_rate", 1e-4, 1e-2)
        trial.set_user_attr(HISTORY, {"4": 0.5, "8": 0.6})
        if state == TrialState.FAIL:
            trial.set_user_attr("error", "EcgrayError: what must hold, what was got")
        made.tell(trial, value, state=state)
    made.ask()
    return made


def runs_of(uri: str) -> list[Any]:
    client = tracking.MlflowClient(tracking_uri=uri)
    return sorted(
        client.search_runs([client.get_experiment_by_name(NAME).experiment_id]), key=lambda r: r.info.run_name
    )


def test_every_finished_trial_is_one_run(study: optuna.Study, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for _ in range(2):  # and once more by a sweep that is resumed
        mirror = MlflowRuns(uri, NAME, SCORE)
        for trial in study.trials:
            mirror.tell(trial)
    complete, pruned, failed = runs_of(uri)
    assert [run.info.run_name for run in (complete, pruned, failed)] == ["trial-0000", "trial-0001", "trial-0002"]
    for trial, run in zip(study.trials, (complete, pruned, failed), strict=False):
        assert run.data.tags["state"] == trial.state.name and run.data.tags[TRIAL] == str(trial.number)
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
        probes = tracking.MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, "probe")
        assert {probe.step: probe.value for probe in probes} == {4: 0.5, 8: 0.6}
    assert complete.data.metrics["score"] == 0.7 and "score" not in pruned.data.metrics
    assert (complete.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert failed.data.tags["error"] == study.trials[2].user_attrs["error"]


def test_a_run_whose_writer_was_killed_is_written_anew(study: optuna.Study, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowRuns(uri, NAME, SCORE)
    client = tracking.MlflowClient(tracking_uri=uri)
    client.create_run(client.get_experiment_by_name(NAME).experiment_id, tags={TRIAL: "0"}, run_name="trial-0000")
    MlflowRuns(uri, NAME, SCORE).tell(study.trials[0])
    (run,) = runs_of(uri)
    assert run.info.status == "FINISHED" and run.data.metrics["score"] == 0.7


def test_a_server_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(EcgrayError, match="must be the URI of a tracking server") as refused:
        MlflowRuns("http://name:secret@127.0.0.1:9", NAME, SCORE)
    assert "secret" not in str(refused.value)
