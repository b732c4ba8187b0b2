"""What finetuning, evaluation and predictions say of themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from ecgray import progress
from ecgray.errors import EcgrayError
from ecgray.finetuning import protocol as protocol_module
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.evaluate import evaluate
from ecgray.finetuning.protocol import finetune

Small = Callable[..., FinetuneConfig]


def content(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_run_and_its_evaluation_say_on_what_they_work_and_what_came_of_it(
    labelled: Path,
    small: Small,
    write_other: Callable[[Path], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)
    run, config = tmp_path / "run", small(labelled)
    finetune(config, run)
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0] == "finetune test: 120 records of 120 patients, 4 classes (N, A, O, ~)"
    assert (
        lines[1] == "2 seeds, each with 90 to train on, 6 to validate, 24 to test; at most 3 epochs of 10 s at 100 Hz"
    )
    assert re.fullmatch(r"resnet of [\d,]+ parameters, from random weights", lines[2])
    assert lines[3] == f"on cpu, 1 thread; writes to {run}"
    assert re.search(r"seed 1 of 2: epoch 0\.\d+/3, loss \d", said.err), "a bar moves inside an epoch"
    assert re.search(r"seed 2 of 2: epoch 2/3, best F1 [01]\.\d{3} \(epoch \d\), loss \d", said.err)
    assert re.fullmatch(r"done: test macro F1 0\.\d{3} \+- 0\.\d{3} over 2 seeds", lines[-1])

    quiet = tmp_path / "quiet"
    finetune(config, quiet, show_progress=False)
    assert capsys.readouterr().err == ""
    for name in ("model.safetensors", "predictions.parquet"):
        file = Path("seeds") / "seed-01" / name
        assert (run / file).read_bytes() == (quiet / file).read_bytes()

    evaluate(run, write_other(tmp_path / "other"), tmp_path / "evaluation")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        f"evaluate {run}: 2 seeds on 24 records of 24 patients, on cpu; writes to {tmp_path / 'evaluation'}"
    )
    assert re.fullmatch(r"done: test macro F1 0\.\d{3} \+- 0\.\d{3} over 2 seeds", lines[-1])


def test_a_resume_with_fewer_epochs_or_seeds_changes_nothing(labelled: Path, small: Small, tmp_path: Path) -> None:
    run, config = tmp_path / "run", small(labelled)
    finetune(config, run, show_progress=False)
    before = content(run)
    for field, told in {"epochs": r"protocol.epochs \(3 -> 1\)", "seeds": r"protocol.seeds \(2 -> 1, which"}.items():
        fewer = replace(config, protocol=replace(config.protocol, **{field: 1}))
        with pytest.raises(EcgrayError, match=told) as refused:
            finetune(fewer, run, resume=True, show_progress=False)
        assert "\n" not in str(refused.value)
        assert content(run) == before


def test_what_makes_a_long_run_shorter(small: Small, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(labelled, data={"seconds": 60.0}, protocol={"seeds": 10, "epochs": 200})
    for fast, more in ((False, ""), (True, " or --precision bf16")):
        monkeypatch.setattr(protocol_module, "has_fast_bf16", lambda fast=fast: fast)
        assert protocol_module._shorter(config, 90, 50_400.0, 0.5) == (
            "at most 14 h on this CPU at 45 records/s; shorter: --seeds 3 or --protocol.epochs 20 or "
            f"--data.seconds 20{more}"
        )
    assert protocol_module._shorter(config, 90, 500.0, 0.5) is None
