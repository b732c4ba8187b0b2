"""What pretraining says of itself, and what it leaves alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ecgray import progress
from ecgray.errors import EcgrayError
from ecgray.training import pretraining
from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain
from ecgray.training.run import RunFolder

MakeConfig = Callable[..., PretrainConfig]


def content(folder: Path, *but: str) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in but)
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


def measured(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if name not in ("frames_per_s", "waiting_for_data")}
        for line in RunFolder(run).read_metrics()
    ]


def test_a_run_says_on_what_it_works_how_far_it_is_and_what_came_of_it(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)
    config = make_config(steps=4, log_every=50)
    run, quiet = tmp_path / "run", tmp_path / "quiet"
    pretrain(config, run)
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert re.fullmatch(
        r"pretrain test: \d+ records of \d+ patients, .* h at \d+ Hz; \d+ patients? to validate", lines[0]
    )
    assert re.match(
        r"task beat \(5 classes\), frames of 256 samples, \d leads?; resnet of [\d,]+ parameters$", lines[1]
    )
    assert lines[2] == f"4 steps of 16 frames on cpu, 1 thread; writes to {run}"
    assert re.search(r"pretrain: step 1/4, loss \d+\.\d{3}", said.err), "the first loss comes with the first step"
    best = max(line["accuracy"] for line in RunFolder(run).read_metrics() if line["kind"] == "validation")
    assert lines[-1] == f"done: 4 steps; accuracy on validation: best {best:.3f} (step 4)"

    pretrain(config, quiet, show_progress=False)
    assert capsys.readouterr().err == ""
    assert measured(run) == measured(quiet)
    weights = ("model.safetensors", "optimiser.safetensors")
    for name in weights:
        assert (run / "best" / name).read_bytes() == (quiet / "best" / name).read_bytes()

    pretrain(config, run, resume=True)
    assert capsys.readouterr().err.splitlines()[-1] == lines[-1], "of a run that was finished already too"


def test_a_resume_with_fewer_steps_than_are_done_changes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(make_config(steps=4), run, show_progress=False)
    before = content(run)
    with pytest.raises(EcgrayError) as refused:
        pretrain(make_config(steps=3), run, resume=True, show_progress=False)
    assert str(refused.value) == (
        f"A resumed run must have at least the 4 steps that {run} has done, got training.steps=3; give "
        "--training.steps 4 or more."
    )
    assert content(run) == before
    pretrain(make_config(steps=5), run, resume=True, show_progress=False)
    assert json.loads((run / "environment.json").read_text())["steps"] == 5


def test_what_makes_a_long_run_shorter(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(width=64, steps=None)
    for fast, more in ((False, ""), (True, " or --training.precision bf16")):
        monkeypatch.setattr(pretraining, "has_fast_bf16", lambda fast=fast: fast)
        assert pretraining._shorter(config, 50_400.0, 0.75) == (
            f"about 14 h on this CPU at 12 frames/s; shorter: --model.width 16 or --training.steps 2000{more}"
        )
    assert pretraining._shorter(config, 500.0, 0.75) is None
    small = replace(make_config(width=8, steps=100, precision="bf16"))
    assert pretraining._shorter(small, 7200.0, 0.75) == "about 2 h on this CPU at 12 frames/s"
