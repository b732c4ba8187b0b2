"""Runs in every state, made by the commands that make them: what the list says of each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from ecgray.cli import main
from ecgray.finetuning.folder import read_config
from ecgray.finetuning.protocol import finetune
from ecgray.operations.run_list import RunRow, list_runs
from ecgray.training.run import locked

CINC2017 = Path(__file__).parents[1] / "data" / "cinc2017"
SMALL = ["--model.width", "4", "--sampling.val-fraction", "0.3", "--sampling.frame-size", "256", "--training.threads"]
SMALL += [
    "1",
    "--training.batch-size",
    "8",
    "--training.checkpoint-every",
    "2",
    "--sampling.val-frames-per-patient",
    "4",
]


def words(shards: Path, out: Path, steps: int, *more: str) -> list[str]:
    given = ["pretrain", "weimann2021_beat", "--data", str(shards), "--out", str(out), *SMALL]
    return [*given, "--training.steps", str(steps), *more]


def row_of(folder: Path) -> RunRow:
    (row,) = list_runs(folder)
    return row


@pytest.fixture(scope="module")
def finished(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(words(small_archive, out, 4)) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def test_a_finished_run(finished: Path) -> None:
    row = row_of(finished)
    assert (row.kind, row.state, row.done, row.total, row.unit) == ("pretrain", "finished", 4, 4, "steps")
    best = [line for line in (finished / "metrics.jsonl").read_text().splitlines() if '"validation"' in line]
    assert row.score == ("accuracy", max(json.loads(line)["accuracy"] for line in best), None)
    assert row.config_hash == json.loads((finished / "environment.json").read_text())["config_hash"]
    assert row.changed == (finished / "environment.json").stat().st_mtime


def test_a_long_run_is_listed_by_its_end(run: Path) -> None:
    """What came before the newest checkpoint is known from there, what came after it from the metrics."""
    (state,) = run.glob("checkpoints/step-000004/loop.json")
    metrics, before = run / "metrics.jsonl", row_of(run)
    labels, *others = metrics.read_text().splitlines(keepends=True)
    long = labels + 10_000 * (json.dumps({"kind": "train", "step": 1, "long": 500 * "-"}) + "\n") + "".join(others)
    metrics.write_text(long)
    tracemalloc.start()
    try:
        row = row_of(run)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (row.state, row.done, row.score) == (before.state, before.done, before.score)
    assert peak < metrics.stat().st_size / 2
    better = [json.dumps({"kind": "validation", "step": step, "accuracy": 2.0 + step}) + "\n" for step in (4, 6)]
    metrics.write_text(long + better[0])
    assert row_of(run).score == ("accuracy", 6.0, None)
    with locked(run / "lock"):
        metrics.write_text(long + "".join(better) + '{"kind": "vali')
        assert (row_of(run).done, row_of(run).score) == (6, ("accuracy", 8.0, None))
        state.unlink()
        assert (row_of(run).done, row_of(run).score) == (6, ("accuracy", 8.0, None))
        metrics.write_text(long)
        assert (row_of(run).state, row_of(run).score) == ("running", before.score)


def test_running_then_stopped_then_killed(small_archive: Path, tmp_path: Path) -> None:
    """One run, asked to stop and resumed, then killed: by its lock, and by what it last said."""
    out = tmp_path / "run"
    for ending, state, note in ((signal.SIGTERM, "stopped", ""), (signal.SIGKILL, "stopped", "killed")):
        command = [sys.executable, "-m", "ecgray", *words(small_archive, out, 100_000), "--training.log-every", "2"]
        process = subprocess.Popen([*command, "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            before = row_of(out).done or 0 if out.exists() else 0
            deadline = time.monotonic() + 240
            while not (out / "environment.json").exists() or (row_of(out).done or 0) <= before:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            row = row_of(out)
            assert (row.state, row.total) == ("running", 100_000)
        finally:
            os.kill(process.pid, ending)
            process.wait(120)
        row = row_of(out)
        assert (row.state, row.note) == (state, note) and row.done


def test_a_failed_run_says_why(small_archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(words(small_archive, out, 50, "--optimiser.learning-rate", "1e30")) == 2
    row = row_of(out)
    assert row.state == "failed" and "Loss and gradient must be finite" in row.note


def test_damage_is_one_line_each(run: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "checkpoints" / "step-000004" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    assert row_of(run).state == "damaged" and "step-000004 is not whole: model.safetensors" in row_of(run).note
    weights.write_bytes(content)
    for file in ("config.json", "environment.json"):
        text = (run / file).read_text()
        for torn in (text[: len(text) // 2], "[]", "{}"):
            (run / file).write_text(torn)
            row = row_of(run)
            assert row.state == "damaged" and row.note and "\n" not in row.note, (file, torn)
        (run / file).unlink()
        assert row_of(run).state == "damaged"
        (run / file).write_text(text)
    assert row_of(run).state == "finished"
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    assert row_of(run).state == "damaged"
    assert main(["runs", str(run.parent)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and printed[1].startswith("damaged   pretrain") and "no whole checkpoint" in printed[1]


def test_finetuning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, out = tmp_path / "shards", tmp_path / "runs" / "deep" / "fine"
    assert main(["ingest", "cinc2017", str(CINC2017), "--out", str(shards), "--workers", "0"]) == 0
    small = ["--model.width", "4", "--data.seconds", "5", "--protocol.epochs", "1", "--protocol.val-fraction", "0.2"]
    small += ["--data.train-fraction", "0.4", "--protocol.test-fraction", "0.4", "--protocol.batch-size", "4"]
    given = ["finetune", "weimann2021_cinc2017", "--data", str(shards), "--out", str(out), "--seeds", "2", *small]
    given += ["--pretrained", "none"]
    assert main(given) == 0
    row = row_of(tmp_path / "runs")
    assert (row.path, row.kind, row.state, row.done, row.total) == (out, "finetune", "finished", 2, 2)
    scores = json.loads((out / "scores.json").read_text())["splits"]["test"]["scores"]["macro_f1"]
    assert row.score == ("test macro F1", scores["mean"], scores["sd"])
    closed = finetune(read_config(out), tmp_path / "closed", with_test=False)  # as a trial of a sweep is
    row = row_of(closed)
    assert (row.state, row.done, row.total) == ("finished", 2, 2)
    assert row.score is not None and row.score[0] == "val. macro F1"
    (out / "scores.json").unlink()
    assert row_of(out).state == "damaged"
    environment = json.loads((out / "environment.json").read_text())
    del environment["starts"][-1]["ended"]
    (out / "environment.json").write_text(json.dumps(environment))
    (out / "seeds" / "seed-01" / "complete").unlink()
    row = row_of(out)
    assert (row.state, row.note, row.done) == ("stopped", "killed", 1)
    assert row.score is not None and row.score[0] == "val. macro F1"
    capsys.readouterr()
    assert main(["runs", str(tmp_path / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["path"] == str(out)


def listed(folder: Path, capsys: pytest.CaptureFixture[str], columns: int = 80) -> str:
    """What ``ecgray runs`` prints, of which no line is longer than a terminal, with lines of a run joined."""
    capsys.readouterr()
    assert main(["runs", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns, lines
    return " ".join(" ".join(lines).split())


def test_runs_name_their_test_set_in_80_columns(
    labelled_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "a_run_with_a_name_that_is_longer_than_what_is_left_of_a_line_of_a_terminal_behind_its_state"
    run, others = tmp_path / "runs" / name, tmp_path / "others"
    assert main(["synthesise", "labelled", str(tmp_path / "files"), "--records", "12", "--seed", "9"]) == 0
    assert main(["ingest", "synthetic", str(tmp_path / "files"), "--out", str(others), "--workers", "0"]) == 0
    given = [
        "finetune",
        "weimann2021_table1_none",
        "--data",
        str(labelled_shards),
        "--seeds",
        "2",
        "--model.width",
        "4",
    ]
    given += ["--data.seconds", "5", "--protocol.epochs", "2", "--protocol.batch-size", "16"]
    assert main([*given, "--out", str(run)]) == 0
    assert main(["evaluate", str(run), "--data", str(others), "--out", str(tmp_path / "runs" / "on")]) == 0
    (scores,) = [row.score for row in list_runs(tmp_path / "runs") if row.kind == "finetune"]
    assert scores is not None and scores[2] is not None
    score = f"test macro F1 {scores[1]:.3f} ± {scores[2]:.3f}".replace(" 0.", " .")
    said = listed(tmp_path / "runs", capsys)
    assert f"2 of 2 seeds; {score} on 16 records of synthetic; changed 20" in said
    assert said.count(" on 12 records of synthetic") == 1 and "evaluate on " in said
    assert listed(run.parent, capsys).replace(" ", "").count(name) == 1

    stopped = json.loads((run / "environment.json").read_text())
    del stopped["starts"][-1]["ended"]
    (run / "environment.json").write_text(json.dumps(stopped))
    (run / "scores.json").unlink()
    assert "2 of 2 seeds; not scored yet; validation macro F1" in listed(run, capsys)
    for seed in ("seed-00", "seed-01"):
        (run / "seeds" / seed / "complete").unlink()
    assert "0 of 2 seeds; 2 trained, their test still closed; validation macro F1" in listed(run, capsys)
    assert "; test: 16 records of synthetic; changed" in listed(run, capsys)
    (run / "seeds" / "seed-01" / "chosen.json").unlink()
    said = listed(run, capsys)
    assert "1 trained, their test still closed, seed 01 after epoch 2 of at most 2; validation macro F1" in said
    (run / "splits.parquet").unlink()
    (run / "predictions.parquet").unlink()
    shutil.rmtree(run / "seeds")
    assert listed(run, capsys).startswith("state kind run stopped finetune .: killed 0 of 2 seeds; changed 20")
    assert main([*given, "--out", str(tmp_path / "untested"), "--test-data", "none"]) == 0
    assert "; no test, " in listed(tmp_path / "untested", capsys)


def test_kinds_that_come_later_and_other_folders(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep with a trial in it, of a version to come; a model's folder of somebody else."""
    sweep, model = tmp_path / "all" / "sweep", tmp_path / "all" / "model"
    sweep.mkdir(parents=True)
    model.mkdir()
    (sweep / "config.json").write_text('{"space": "weimann2021"}')
    environment = {"config_hash": "abc", "starts": [{"ended": {"state": "failed", "reason": "no GPU"}}]}
    (sweep / "environment.json").write_text(json.dumps(environment))
    shutil.copytree(run, sweep / "trials" / "0001", symlinks=True)
    (model / "config.json").write_text("{}")
    rows = {str(row.path.relative_to(tmp_path / "all")): row for row in list_runs(tmp_path / "all")}
    assert {name: (row.kind, row.state) for name, row in rows.items()} == {
        "sweep": ("other", "failed"),
        "sweep/trials/0001": ("pretrain", "finished"),
    }
    assert main(["runs", str(model)]) == 0 and "no runs in" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
