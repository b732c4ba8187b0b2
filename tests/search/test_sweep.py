"""A sweep whose driver is killed and started again: no trial twice, none lost, the test opened once at the end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from ecgray.cli import main
from ecgray.training.checkpoint import newest_checkpoint

TRIALS = 6
FIELDS = {
    "pretrain.model.width": 4,
    "pretrain.training.steps": 8,
    "pretrain.training.batch-size": 16,
    "pretrain.sampling.frames-per-visit": 16,
    "pretrain.sampling.pool-patients": 3,
    "pretrain.sampling.val-fraction": 0.25,
    "pretrain.sampling.val-frames-per-patient": 4,
    "finetune.data.seconds": 8,
    "finetune.protocol.epochs": 2,
    "finetune.protocol.val-fraction": 0.2,
    "finetune.data.train-fraction": 0.5,
    "probe.epochs": 1,
    "search.rungs": 1,
    "search.reduction": 2,
    "search.startup-trials": 4,
    "search.seeds": 1,
    "search.epochs": 1,
    "final-seeds": 2,
    "trials": TRIALS,
}


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "trials.json").read_text())
    return found


def ended(out: Path) -> dict[int, dict[str, Any]]:
    return {row["number"]: row for row in rows(out) if row["state"] in ("COMPLETE", "PRUNED", "FAIL")}


def end_descendants(processes: list[psutil.Process]) -> None:
    """What the killed driver started ends by itself; what does not in time is ended here."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=30)


@pytest.mark.slow
def test_a_killed_sweep_goes_on(small_archive: Path, labelled_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    words = [word for name, value in FIELDS.items() for word in (f"--{name}", str(value))]
    words += ["--data", str(small_archive), "--downstream", str(labelled_shards), "--out", str(out)]
    command = [sys.executable, "-m", "ecgray", "sweep", "weimann2021_pretraining", *words]
    with open(tmp_path / "driver.log", "w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 600
        while not (out / "trials.json").is_file() or len(ended(out)) < 2:
            assert driver.poll() is None and time.monotonic() < deadline, (tmp_path / "driver.log").read_text()[-3000:]
            time.sleep(0.05)
        started = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.kill()
        driver.wait()
    before = ended(out)
    end_descendants(started)
    assert 2 <= len(before) < TRIALS and not (out / "final").exists()

    assert main(["sweep", "weimann2021_pretraining", *words]) == 2, "only with --resume"
    subprocess.run([*command, "--resume"], check=True, timeout=900)
    after = rows(out)
    assert [row["number"] for row in after] == list(range(TRIALS))
    assert all(row["state"] in ("COMPLETE", "PRUNED", "FAIL") for row in after)
    failed = [row["error"] for row in after if row["state"] == "FAIL"]
    assert all(error.startswith("EcgrayError: A record must hold") for error in failed), "for its frames alone"
    assert {number: after[number] for number in before} == before, "finished trials are as they were"
    assert [row["params"]["pretrain.task"] for row in after[:4]] == ["beat", "rhythm", "heart_rate", "future"]

    for row in after:
        folder = out / "trials" / f"trial-{row['number']:04d}"
        if row["state"] == "COMPLETE":
            assert set(pd.read_parquet(folder / "finetune" / "predictions.parquet")["split"]) == {"val"}
            scores = json.loads((folder / "finetune" / "scores.json").read_text())["splits"]["val"]["scores"]
            assert row["values"] == [scores["macro_f1"]["mean"]]
            newest = newest_checkpoint((folder / "pretraining" / "run" / "checkpoints").resolve())
            assert newest is not None and newest.name == "step-000008"
            assert list((folder / "events").iterdir())
        if row["state"] == "FAIL":
            assert row["traceback"], "why it failed is kept"
    final = json.loads((out / "final" / "final.json").read_text())
    best = max((row for row in after if row["values"]), key=lambda row: row["values"][0])
    assert after[final["winner"]]["values"] == best["values"]
    for name in final:
        predictions = pd.read_parquet(out / "final" / name / "predictions.parquet")
        assert predictions[predictions["split"] == "test"]["seed"].nunique() == 2
    assert not (out / "tune").exists()

    assert main(["sweep", "weimann2021_pretraining", *words, "--resume", "--trials", "9"]) == 2, "the test is known"
    assert main(["report", str(out), "--out", str(tmp_path / "report")]) == 0
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.html", "trials.csv", "history.png", "stopping.png", "parallel.png", "final"} <= names
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"{TRIALS} of {TRIALS} trials" in page and re.search("published, Table [12]", page)
    assert len(pd.read_csv(tmp_path / "report" / "trials.csv")) == TRIALS
