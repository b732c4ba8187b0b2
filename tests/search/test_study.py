"""The study as the record: what was proposed goes on, what was stopped is pruned, nothing is asked twice."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import BaseTrial, TrialState
from ray.tune.schedulers import TrialScheduler

from ecgray.errors import EcgrayError
from ecgray.recipes import SPACES
from ecgray.search.config import SearchConfig, SweepConfig
from ecgray.search.folder import SweepFolder
from ecgray.search.space import Space
from ecgray.search.study import StudySearch, open_storage, stored
from ecgray.search.sweep import Resources, _halving
from ecgray.training.room import places

SPACE = SPACES["weimann2021_pretraining"]
RUNG, END = {"steps": 4, "probe": 0.25}, {"score": 0.5, "cost": 7.0}


def open_search(folder: Path, storage: str = "sqlite", space: Space = SPACE, **search: Any) -> StudySearch:
    settings = SearchConfig(**({"trials": 12, "startup_trials": 4} | search))
    folder.mkdir(exist_ok=True)
    return StudySearch(space, settings, open_storage(storage, folder), "study", SweepFolder(folder), lambda trial: None)


def finish(search: StudySearch, name: str, score: float) -> None:
    search.on_trial_complete(name, END | {"score": score})


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_states_values_and_probes(tmp_path: Path, storage: str) -> None:
    search = open_search(tmp_path, storage)
    asked = [search.suggest(name)["params"] for name in ("whole", "stopped", "raised", "died", "running")]
    assert [params["pretrain.task"] for params in asked[:4]] == ["beat", "rhythm", "heart_rate", "future"]
    search.on_trial_result("whole", RUNG)
    search.on_trial_complete("whole", RUNG | END)
    search.on_trial_complete("stopped", RUNG | {"probe": 0.125})  # Tune tells the result that it stops a trial for here
    search.on_trial_complete("raised", {"failed": "EcgrayError: no"})
    search.on_trial_complete("died", None, error=True)
    assert search.left == 8

    rows = json.loads((tmp_path / "trials.json").read_text())
    assert [row["state"] for row in rows] == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "RUNNING"]
    assert [row["values"] for row in rows] == [[0.5], None, None, None, None]
    assert [row["probes"] for row in rows] == [{"4": 0.25}, {"4": 0.125}, {}, {}, {}]
    assert "no" in rows[2]["error"] and "died" in rows[3]["error"]
    stored = open_search(tmp_path, storage).study.trials
    assert stored[1].intermediate_values == {4: 0.125} and stored[1].state == TrialState.PRUNED


def test_a_second_process_goes_on_with_what_was_running(tmp_path: Path) -> None:
    first = open_search(tmp_path)
    asked = [first.suggest(f"t{i}") for i in range(6)]
    for i in (0, 2, 3):
        finish(first, f"t{i}", i / 10)
    first.on_trial_result("t4", RUNG)

    second = open_search(tmp_path)
    assert second.left == 9
    again = [second.suggest(f"new{i}") for i in range(3)]
    assert again == [asked[1], asked[4], asked[5]], "with their numbers and values"
    second.on_trial_result("new1", RUNG)
    second.on_trial_complete("new1", RUNG | END)
    assert second.study.trials[4].intermediate_values == {4: 0.25}
    assert second.suggest("more")["number"] == 6
    assert len(second.study.trials) == 7


def test_a_sweep_that_was_killed_proposes_what_it_would_have(tmp_path: Path) -> None:
    proposed = []
    for name, processes in (("whole", 1), ("killed", 9)):
        trials = []
        search = open_search(tmp_path / name)
        for i in range(9):
            if processes > 1:
                search = open_search(tmp_path / name)
            trials.append(search.suggest(f"t{i}"))
            finish(search, f"t{i}", len(str(trials[-1])) % 7 / 7)
        proposed.append(trials)
    assert proposed[0] == proposed[1]
    rates = [trial["params"]["pretrain.optimiser.learning_rate"] for trial in proposed[0][4:]]
    assert len(set(rates)) == 5
    other = open_search(tmp_path / "other", seed=1)
    assert [other.suggest(f"t{i}") for i in range(6)][4] != proposed[0][4]


def test_a_proposal_that_was_cut_short_is_drawn_from_the_seed(tmp_path: Path) -> None:
    """Killed between the trial's number and its first value, three times over: what it would have been."""
    whole, killed = (open_search(tmp_path / name) for name in ("whole", "killed"))
    for search in (whole, killed):
        for i in range(5):
            search.suggest(f"t{i}")
            finish(search, f"t{i}", i / 10)
    killed._next()
    for _ in range(2):
        open_search(tmp_path / "killed")._next()
    assert open_search(tmp_path / "killed").suggest("again") == whole.suggest("t5")


def test_two_objectives(tmp_path: Path) -> None:
    search = open_search(tmp_path, objective="score_and_cost")
    for name in "abc":
        search.suggest(name)
    search.on_trial_complete("a", END)
    search.on_trial_complete("b", RUNG)
    assert [trial.state.name for trial in search.study.trials[:3]] == ["COMPLETE", "PRUNED", "RUNNING"]
    assert search.study.trials[0].values == [0.5, 7.0]
    assert json.loads((tmp_path / "trials.json").read_text())[1]["probes"] == {"4": 0.25}


def test_what_tune_writes_of_the_searcher_holds_no_password(tmp_path: Path) -> None:
    search = open_search(tmp_path, f"sqlite:///{tmp_path}/secret.db")
    assert b"secret" not in pickle.dumps(search)
    search.save(str(tmp_path / "saved"))
    assert (tmp_path / "saved").read_bytes() == b""
    with pytest.raises(EcgrayError) as error:
        open_storage("postgresql://user:hunter2@127.0.0.1:1/none", tmp_path)
    assert "hunter2" not in str(error.value) and "postgresql" in str(error.value)


def test_halving_knows_what_earlier_processes_saw(tmp_path: Path, make_sweep: Any) -> None:
    def suggest(trial: BaseTrial) -> None:
        trial.suggest_float("pretrain.optimiser.learning_rate", 1e-4, 1e-2, log=True)

    space = replace(SPACE, suggest=suggest, paper=())
    config: SweepConfig = make_sweep(trials=9)
    first = open_search(tmp_path, space=space)
    for i, probe in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
        first.suggest(f"t{i}")
        first.on_trial_result(f"t{i}", {"steps": 4, "probe": probe})
        if i < 3:  # the last two are running when the process ends, and one of them has written its result
            first.on_trial_complete(f"t{i}", {"steps": 4, "probe": probe})
    result = SweepFolder(tmp_path).trial(4) / "result.json"
    result.parent.mkdir(parents=True)
    result.touch()
    scheduler = _halving(open_search(tmp_path, space=space).study, config, SweepFolder(tmp_path))
    decisions = []
    for probe in (0.22, 0.23):
        trial: Any = SimpleNamespace(trial_id=f"new {probe}")
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"score": 1.0}) == TrialScheduler.CONTINUE
        decisions.append(scheduler.on_trial_result(None, trial, {"steps": 4, "probe": probe}))
    # Below the median of .1, .2, .3 and .5, then above that of these and .22: .4 will be reported again.
    assert decisions == [TrialScheduler.STOP, TrialScheduler.CONTINUE]
    assert config.rungs == (4,)


@pytest.mark.parametrize(
    ("resources", "nodes", "trials", "reserved", "devices"),
    [
        (Resources(), [(2, 0)], 2, {"CPU": 1.0}, (1, 1.0, inf)),
        (Resources(concurrent=1), [(16, 0)], 1, {"CPU": 16.0}, (16, 1.0, inf)),
        (Resources(), [(16, 2)], 2, {"CPU": 8.0, "GPU": 1.0}, (8, 1.0, inf)),
        (Resources(gpus=0.25), [(16, 2)], 8, {"CPU": 2.0, "GPU": 0.25}, (2, 0.25, inf)),
        (Resources(gpus=0.25), [(2, 1)], 4, {"CPU": 0.5, "GPU": 0.25}, (1, 0.25, inf)),
        (Resources(gpus=0.4), [(8, 2)], 4, {"CPU": 2.0, "GPU": 0.4}, (2, 0.4, inf)),  # two on a card
        (Resources(workers=2), [(8, 0)], 4, {"CPU": 0.01}, (1, 2.0, 0.99)),
        # Several nodes, some of them other than the rest.
        (Resources(), [(4, 0), (8, 1), (8, 1)], 2, {"CPU": 8.0, "GPU": 1.0}, (8, 1.0, inf)),
        (Resources(), [(32, 1), (4, 1)], 2, {"CPU": 4.0, "GPU": 1.0}, (4, 1.0, inf)),
        (Resources(), [(0, 0), (8, 1), (8, 1)], 2, {"CPU": 8.0, "GPU": 1.0}, (8, 1.0, inf)),
        (Resources(concurrent=3), [(4, 0), (4, 0)], 3, {"CPU": 2.0}, (2, 1.0, inf)),
        (Resources(concurrent=2), [(16, 0), (1, 0)], 2, {"CPU": 8.0}, (8, 1.0, inf)),
        (Resources(workers=8), [(4, 0), (4, 0)], 1, {"CPU": 0.01}, (1, 8.0, 0.99)),
        (Resources(workers=2), [(1, 0)] * 8, 4, {"CPU": 0.01}, (1, 2.0, 0.96)),
        (Resources(workers=2), [(4, 0), (8, 1), (8, 1)], 1, {"CPU": 0.01}, (7, 2.0, 7.0)),
    ],
)
def test_trials_side_by_side(
    resources: Resources,
    nodes: list[tuple[float, float]],
    trials: int,
    reserved: dict[str, float],
    devices: tuple[int, float, float],
) -> None:
    cluster = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    found = resources.of(cluster)
    assert found is not None
    count, each, what = found
    assert (count, each) == (trials, reserved)
    assert (what.threads, what.devices, what.most_cpus) == devices
    if what.workers == 1:
        assert places(cluster, each["CPU"], each.get("GPU", 0.0)) >= trials
    else:
        gpus = 1.0 if any(gpu for _, gpu in nodes) else 0.0
        # Wherever the actors are.
        beside = [{**node, "CPU": node["CPU"] - trials * each["CPU"]} for node in cluster]
        assert places(beside, what.most_cpus, gpus) >= trials * what.workers


def test_trials_that_wait_for_nodes() -> None:
    """On a cluster that may grow, all that are asked for, each as one that fits now."""
    node = {"CPU": 8.0, "GPU": 1.0}
    one = {"CPU": 8.0, "GPU": 1.0}
    for resources, trials in ((Resources(), 40), (Resources(concurrent=4), 4)):
        found = resources.of([{"CPU": 0.0}, node], growing=40)
        assert found is not None and found[:2] == (trials, one)
    assert Resources().of([{"CPU": 0.0}], growing=40) is None


def test_a_trial_that_does_not_fit() -> None:
    assert Resources(workers=3).of([{"CPU": 2.0}]) is None
    assert Resources(workers=2).of([{"CPU": 1.5}, {"CPU": 0.5}]) is None
    assert Resources(gpus=2).of([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}]) is None
    with pytest.raises(EcgrayError, match="at least one"):
        Resources(concurrent=0)


HOLD = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def held(database: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds an SQLite file until it is told a line."""
    command = [sys.executable, "-c", HOLD, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other


def test_another_process_that_holds_the_database_is_waited_for(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    search.suggest("t0")
    with held(tmp_path / "study.db") as other:
        assert other.stdin is not None
        freed = threading.Timer(7.0, lambda: other.communicate("\n"))  # SQLite itself would give up after five
        freed.start()
        finish(search, "t0", 0.5)
        freed.join()
    assert search.study.trials[0].state == TrialState.COMPLETE


def test_one_that_holds_it_for_ever_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecgray.search.study.LOCKED_S", 0.1)
    search = open_search(tmp_path)
    search.suggest("t0")
    with held(tmp_path / "study.db") as other:
        for call in (lambda: finish(search, "t0", 0.5), lambda: search.suggest("t1"), search.dump):
            with pytest.raises(EcgrayError, match=r"database is locked; mend it .* --resume") as refused:
                call()
            assert refused.value is search.failure
        with pytest.raises(EcgrayError, match="--resume"), stored():
            search.study.get_trials()
        other.communicate("\n")
    again = open_search(tmp_path)
    assert again.suggest("t0")["number"] == 0
    finish(again, "t0", 0.5)
    assert again.study.trials[0].state == TrialState.COMPLETE
