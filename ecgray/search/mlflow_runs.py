"""The trials of a sweep as runs of MLflow, for those who keep their experiments there. The study stays the record."""

from __future__ import annotations

import logging
import os
from typing import Any

from optuna.trial import FrozenTrial

from ecgray.errors import EcgrayError
from ecgray.search.study import FINISHED, probes_of

TRIAL = "ecgray.trial"
"""The tag by which a run knows its trial."""
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}


class MlflowRuns:
    """One run per finished trial in the experiment ``name``, under ``uri`` (sqlite:///..., http://..., databricks).

    Raises EcgrayError when MLflow is not installed or cannot be reached at the start. One that goes away later is not
    asked again, so that the sweep does not wait for it: what is missing is written when the sweep is resumed.
    """

    def __init__(self, uri: str, name: str, objectives: list[str]) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # seven would hold the trials up for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise EcgrayError("--mlflow needs MLflow, which is not installed; pip install 'ecgray[mlflow]'.") from None
        self._objectives = objectives
        try:
            self._client: Any = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(name)
            self._experiment = found.experiment_id if found else self._client.create_experiment(name)
            runs = self._client.search_runs([self._experiment], f"tags.`{TRIAL}` != ''", max_results=50_000)
        except Exception as error:
            raise EcgrayError(
                "--mlflow must be the URI of a tracking server or database that can be reached, got one of "
                f"{uri.partition('://')[0]}:// ({type(error).__name__}); look at the URI and the server."
            ) from None
        self._away = False
        self._told = set()
        for run in runs:
            if run.info.status in STATUS.values():
                self._told.add(int(run.data.tags[TRIAL]))
            else:  # whoever wrote it was killed half way
                self._client.delete_run(run.info.run_id)

    def tell(self, trial: FrozenTrial) -> None:
        """Write a finished trial that is not there yet: parameters, probes by step, values, state and error."""
        if self._away or trial.number in self._told or trial.state not in FINISHED:
            return
        try:
            self._write(trial)
        except Exception as error:  # its text would show a password in the URI
            self._away = True
            logging.getLogger(__name__).warning(
                "MLflow does not answer (%s): trials from %d on are written when the sweep is resumed",
                type(error).__name__,
                trial.number,
            )
            return
        self._told.add(trial.number)

    def _write(self, trial: FrozenTrial) -> None:
        from mlflow.entities import Metric, Param

        started, ended = (_milliseconds(time) for time in (trial.datetime_start, trial.datetime_complete))
        tags = {TRIAL: str(trial.number), "state": trial.state.name}
        if "error" in trial.user_attrs:
            tags["error"] = str(trial.user_attrs["error"])
        name = f"trial-{trial.number:04d}"
        run = self._client.create_run(self._experiment, started, tags, run_name=name).info.run_id
        metrics = [Metric("probe", value, ended, steps) for steps, value in sorted(probes_of(trial).items())]
        if trial.state.name == "COMPLETE":
            metrics += [Metric(key, value, ended, 0) for key, value in zip(self._objectives, trial.values, strict=True)]
        self._client.log_batch(
            run,
            metrics=metrics,
            params=[Param(key, str(value)) for key, value in trial.params.items()],
        )
        self._client.set_terminated(run, STATUS[trial.state.name], ended)


def _milliseconds(time: Any) -> int:
    return int(time.timestamp() * 1000) if time else 0
