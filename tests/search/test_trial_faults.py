"""Trials that raise, run out of memory or lose their process: each is told with its reason, and costs no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import BaseTrial

from ecgray.cli import main
from ecgray.config import with_values
from ecgray.errors import EcgrayError
from ecgray.recipes import SPACES
from ecgray.report.read_sweep import read_sweep
from ecgray.search.sweep import Resources, sweep
from ecgray.training.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow
FRAME, WIDTH, RATE = "pretrain.sampling.frame_size", "pretrain.model.width", "pretrain.optimiser.learning_rate"
PATIENCE_S = 300


def suggest(trial: BaseTrial) -> None:
    trial.suggest_int(FRAME, 1, 1 << 20)
    trial.suggest_int(WIDTH, 1, 1 << 24)
    trial.suggest_float(RATE, 1e-4, 1e-2)


def space_of(*points: dict[str, Any]) -> Any:
    start = {FRAME: 256, WIDTH: 4, RATE: 1e-3}
    return replace(SPACES["weimann2021_pretraining"], suggest=suggest, paper=tuple(start | point for point in points))


def rows_of(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "trials.json").read_text())
    return found


def test_a_trial_that_raises_and_one_out_of_memory(two_cpus: None, make_sweep: Any, tmp_path: Path) -> None:
    """No record is as long as the first trial's frame; the second's network takes more bytes than addresses can say."""
    out = tmp_path / "sweep"
    sweep(
        space_of({FRAME: 1 << 20}, {WIDTH: 1 << 23}, {}), make_sweep(trials=3), out, resources=Resources(concurrent=1)
    )
    short, memory, sound = rows_of(out)
    assert [row["state"] for row in (short, memory, sound)] == ["FAIL", "FAIL", "COMPLETE"]
    assert short["error"].startswith("EcgrayError: ") and str(1 << 20) in short["error"]
    assert "Traceback" not in short["traceback"], "one line says it"
    assert "memory" in memory["error"] and "Traceback" in memory["traceback"]
    assert sound["values"] and not sound["error"]
    budget = read_sweep(out).budget
    assert (budget.whole, budget.spent, budget.failed, budget.stopped, budget.shared) == (24, 8, 16, 0, 0)
    assert main(["report", str(out), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "alloc" in page and str(1 << 20) in page


def kill_when_at_work(trial: Path, times: int) -> threading.Thread:
    """End the process of a trial, ``times`` over, each time once its pretraining is at work: as the system does when
    memory runs out."""

    def kill() -> None:
        deadline, killed = time.monotonic() + PATIENCE_S, set[int]()
        while len(killed) < times and time.monotonic() < deadline:
            words = (trial / "lock").read_text().split() if (trial / "lock").is_file() else []
            if words and int(words[0]) not in killed and (trial / "pretraining" / "run" / "lock").is_file():
                os.kill(int(words[0]), signal.SIGKILL)
                killed.add(int(words[0]))
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_trial_whose_process_is_killed(two_cpus: None, make_sweep: Any, tmp_path: Path) -> None:
    """Once: it goes on, and what it trains is what it would have been. Twice: it is given up and says so."""
    out, calm = tmp_path / "sweep", tmp_path / "calm"
    space = space_of({}, {RATE: 2e-3}, {RATE: 3e-3})
    killers = [kill_when_at_work(out / "trials" / f"trial-{number:04d}", times) for number, times in ((0, 1), (1, 2))]
    sweep(space, make_sweep(trials=3), out, resources=Resources(concurrent=1))
    for killer in killers:
        killer.join()
    once, twice, sound = rows_of(out)
    assert (once["state"], twice["state"], sound["state"]) == ("COMPLETE", "FAIL", "COMPLETE")
    assert "process died" in twice["error"] and "once more" in twice["traceback"]
    sweep(space, make_sweep(trials=1), calm, resources=Resources(concurrent=1))
    (undisturbed,) = rows_of(calm)
    assert once["values"] == undisturbed["values"] and once["probes"] == undisturbed["probes"]
    weights = [newest_checkpoint(one / "trials/trial-0000/pretraining/run/checkpoints") for one in (out, calm)]
    assert all(folder is not None and folder.name == "step-000008" for folder in weights)
    mine, theirs = ((folder / "model.safetensors").read_bytes() for folder in weights if folder is not None)
    assert mine == theirs


def test_a_study_that_can_no_longer_be_told_ends_the_sweep_in_one_line(
    two_cpus: None, make_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another process holds the database from the first trial on; later, the sweep goes on with that trial."""
    monkeypatch.setattr("ecgray.search.study.LOCKED_S", 0.5)
    out, space, config = tmp_path / "sweep", space_of({}, {RATE: 2e-3}), make_sweep(trials=2, early_stopping=False)
    hold = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], timeout=60); d.execute('BEGIN EXCLUSIVE'); input()"
    holding: list[subprocess.Popen[bytes]] = []

    def take() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not (out / "trials/trial-0000/lock").is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        holding.append(subprocess.Popen([sys.executable, "-c", hold, str(out / "study.db")], stdin=subprocess.PIPE))

    taker = threading.Thread(target=take)
    taker.start()
    with pytest.raises(EcgrayError, match=r"database is locked; .* --resume"):
        sweep(space, config, out, resources=Resources(concurrent=1))
    taker.join()
    for process in holding:
        process.communicate(b"\n")
    assert "Traceback" not in capfd.readouterr().err
    sweep(space, config, out, resources=Resources(concurrent=1), resume=True)
    assert [row["state"] for row in rows_of(out)] == ["COMPLETE", "COMPLETE"]


def test_a_trial_that_loses_its_process_again_and_again_and_comes_further(
    two_cpus: None, make_sweep: Any, tmp_path: Path
) -> None:
    """Three times, more often than one that stays where it is would be started again."""
    out, trial = tmp_path / "sweep", tmp_path / "sweep" / "trials" / "trial-0000"
    times = {"pretrain.training.steps": 600, "pretrain.training.checkpoint_every": 20}
    killed: dict[int, str] = {}

    def newest() -> str:
        found = newest_checkpoint(trial / "pretraining" / "run" / "checkpoints")
        return "" if found is None else found.name

    def kill() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(killed) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
            words = (trial / "lock").read_text().split() if (trial / "lock").is_file() else []
            if words and int(words[0]) not in killed and newest() not in ("", *killed.values()):
                time.sleep(0.3)
                os.kill(int(words[0]), signal.SIGKILL)
                killed[int(words[0])] = newest()

    killer = threading.Thread(target=kill)
    killer.start()
    sweep(space_of({}), with_values(make_sweep(trials=1), times), out, resources=Resources(concurrent=1))
    killer.join()
    assert len(set(killed.values())) == 3 and [row["state"] for row in rows_of(out)] == ["COMPLETE"]
