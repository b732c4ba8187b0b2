"""The Optuna study is the record of a sweep; Ray Tune asks it for trials and tells it how they went."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch

from ecgray.errors import EcgrayError
from ecgray.finetuning.folder import write_json_atomically
from ecgray.search.config import SearchConfig
from ecgray.search.folder import SweepFolder
from ecgray.search.space import Space
from ecgray.search.trial import ERROR

P = ParamSpec("P")
T = TypeVar("T")
OBJECTIVES = {"score": ["score"], "score_and_cost": ["score", "cost"]}
DIRECTIONS = {"score": "max", "cost": "min"}
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
HISTORY = "probes"
"""User attribute of a trial: {steps: probe}. Optuna's own intermediate values are for one objective only."""

LOCKED_S = 60.0
"""How long the study waits for another process that holds its SQLite file, as one that copies it does."""

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(storage: str, sweep: Path) -> optuna.storages.BaseStorage:
    """ "sqlite": study.db in the sweep's folder; "journal": study.log there, for network file systems; else a URL.

    Raises EcgrayError when it cannot be opened. A password in the URL is shown nowhere.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage == "journal":
        from optuna.storages.journal import JournalFileBackend

        return optuna.storages.JournalStorage(JournalFileBackend(str(sweep / "study.log")))
    url = f"sqlite:///{sweep / 'study.db'}" if storage == "sqlite" else storage
    # A database that was away for a moment, between two calls, is connected to anew.
    options = {"connect_args": {"timeout": LOCKED_S}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return optuna.storages.get_storage(optuna.storages.RDBStorage(url, engine_kwargs=options))
    except (Exception, SystemExit) as error:
        kind = url.partition("://")[0]
        raise EcgrayError(
            f"The storage must be sqlite, journal or the URL of a database that can be reached, got one of {kind}:// "
            f"({type(error).__name__}); look at the URL, and install the database's driver (psycopg for PostgreSQL)."
        ) from None


@contextlib.contextmanager
def stored() -> Iterator[None]:
    """Turns what the storage of a study refuses into an EcgrayError that says how to go on."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise EcgrayError(
            f"The storage of the study must be readable and writable while the sweep runs, got: {reason}; mend it or "
            "end what holds it, then --resume."
        ) from error


def _told(method: Callable[Concatenate[StudySearch, P], T]) -> Callable[Concatenate[StudySearch, P], T]:
    """A call that the first ``failure`` ends, and all after it."""

    @functools.wraps(method)
    def call(self: StudySearch, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.failure is not None:
            raise self.failure
        try:
            with stored():
                return method(self, *args, **kwargs)
        except (EcgrayError, OSError) as error:
            self.failure = error
            raise

    return call


class StudySearch(OptunaSearch):
    """Ray Tune's Optuna searcher over a study that outlives it.

    Trials that an earlier process left running are handed out first, with their number and their values. A trial's
    values depend on the seed, its number and the trials before it alone, so that a sweep that was killed goes on as it
    would have; where it was killed amid the proposal of a trial, what was not proposed yet is drawn anew. A trial that
    Tune stopped becomes PRUNED, one that reported a failure or died FAIL.

    failure: what first kept the study from being told (EcgrayError of its storage, OSError of the disk). Tune wraps it,
    or takes it for a trial's own, so that every later call raises it again.
    """

    def __init__(
        self,
        space: Space,
        search: SearchConfig,
        storage: optuna.storages.BaseStorage,
        study_name: str,
        sweep: SweepFolder,
        finished: Callable[[FrozenTrial], None],
    ) -> None:
        self._search, self._sweep, self._finished = search, sweep, finished
        self.failure: EcgrayError | OSError | None = None
        self._objectives = OBJECTIVES[search.objective]
        modes = [DIRECTIONS[name] for name in self._objectives]
        several = len(modes) > 1
        super().__init__(
            space=space.suggest,
            metric=self._objectives if several else self._objectives[0],
            mode=modes if several else modes[0],
            storage=storage,
            study_name=study_name,
        )
        for point in space.paper[: search.trials]:
            self.study.enqueue_trial(dict(point), skip_if_exists=True)
        self._unfinished = self.study.get_trials(states=(TrialState.RUNNING,))
        self.dump()

    @property
    def study(self) -> optuna.Study:
        return cast(optuna.Study, self._ot_study)

    @property
    def left(self) -> int:
        """Trials that are still to be finished."""
        return max(0, self._search.trials - len(self.study.get_trials(deepcopy=False, states=FINISHED)))

    def going(self) -> tuple[int, list[int]]:
        """(how many trials this process has seen ending, the numbers of those that it runs); the storage is not asked,
        so that another thread may do so."""
        ended = set(self._completed_trials)
        return len(ended), sorted(trial.number for name, trial in list(self._ot_trials.items()) if name not in ended)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune would keep it on disk, with the database's URL and its password."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    @_told
    def suggest(self, trial_id: str) -> dict[str, Any]:
        if trial_id not in self._ot_trials:
            self._ot_trials[trial_id] = self._next()
        params = super().suggest(trial_id)
        return {"number": self._ot_trials[trial_id].number, "params": params}

    def _next(self) -> optuna.Trial:
        begun = self._unfinished.pop(0) if self._unfinished else None
        number = begun.number if begun else len(self.study.get_trials(deepcopy=False))
        seed = int(np.random.SeedSequence([self._search.seed, number]).generate_state(1)[0])
        self.study.sampler = TPESampler(
            seed=seed, n_startup_trials=self._search.startup_trials, multivariate=True, group=True
        )
        return optuna.Trial(self.study, begun._trial_id) if begun else self.study.ask()

    @_told
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "probe" not in result:
            return
        trial, steps, probe = self._ot_trials[trial_id], int(result["steps"]), float(result["probe"])
        seen = trial.user_attrs.get(HISTORY, {})
        if str(steps) in seen:  # a trial that goes on reports its rungs again
            return
        if len(self._objectives) == 1:
            trial.report(probe, steps)
        trial.set_user_attr(HISTORY, {**seen, str(steps): probe})

    @_told
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial, result = self._ot_trials[trial_id], result or {}
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        if not error:
            self.on_trial_result(trial_id, result)  # what Tune stops a trial for, it tells nobody else
        if error or "failed" in result:
            trial.set_user_attr("error", result.get("failed") or "its process died; the folder of the trial says why")
            self.study.tell(trial, state=TrialState.FAIL)
        elif "score" in result:
            self.study.tell(trial, [float(result[name]) for name in self._objectives])
        else:
            self.study.tell(trial, state=TrialState.PRUNED)
        self.dump()
        self._finished(self.study.trials[trial.number])

    @_told
    def dump(self) -> None:
        """Write trials.json."""
        write_json_atomically(self._sweep.trials, [_as_json(trial, self._sweep) for trial in self.study.trials])


def probes_of(trial: FrozenTrial) -> dict[int, float]:
    """{steps: probe} of a trial."""
    return {int(steps): float(value) for steps, value in trial.user_attrs.get(HISTORY, {}).items()}


def _as_json(trial: FrozenTrial, sweep: SweepFolder) -> dict[str, Any]:
    text = sweep.trial(trial.number) / ERROR
    failed = trial.state == TrialState.FAIL
    started, ended = trial.datetime_start, trial.datetime_complete
    return {
        "number": trial.number,
        "state": trial.state.name,
        "params": trial.params,
        "distributions": {name: distribution_to_json(d) for name, d in trial.distributions.items()},
        "values": trial.values if trial.state == TrialState.COMPLETE else None,
        "probes": {str(steps): value for steps, value in probes_of(trial).items()},
        "error": trial.user_attrs.get("error") if failed else None,
        "traceback": text.read_text(encoding="utf-8") if failed and text.is_file() else None,
        "started": started.isoformat() if started else None,
        "ended": ended.isoformat() if ended else None,
    }
