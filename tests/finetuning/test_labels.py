"""Labels that count as others: in an evaluation, and in all sets of a finetuning run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from ecgray.cli import main
from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.folder import read_config
from ecgray.finetuning.labelled import open_labelled
from ecgray.finetuning.protocol import examine, finetune
from tests.finetuning.conftest import make_record, make_records, write_shards

Small = Callable[..., FinetuneConfig]
FOREIGN = {"NSR": 5, "AFIB": 4, "O": 3, "X": 2}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 records with labels of another database, one without a label and one with two."""
    more = [make_record(7900, ()), make_record(7901, ("AFIB", "X"))]
    return write_shards(tmp_path_factory.mktemp("foreign") / "shards", make_records(FOREIGN, first=7000) + more)


def test_records_under_what_their_labels_count_as(foreign: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = open_labelled(foreign, ["NSR=N", "AFIB=A", "X="])
    assert found.records["label"].value_counts().to_dict() == {"N": 5, "A": 4, "O": 3}
    assert found.records.index.tolist() == list(range(12)) and found.left_out == 2 + 2
    assert "left out by their labels: 2 of 16" in caplog.text
    own = open_labelled(foreign).records.set_index("record")["label"]
    moved = found.records.set_index("record")["label"]
    assert (own[moved.index].map({"NSR": "N", "AFIB": "A", "O": "O"}) == moved).all()
    swapped = open_labelled(foreign, ["NSR=AFIB", "AFIB=NSR"]).records["label"].value_counts()
    assert swapped[["NSR", "AFIB"]].tolist() == [4, 5]
    with pytest.raises(EcgrayError, match="must keep records, got all left out"):
        open_labelled(foreign, [f"{label}=" for label in FOREIGN])


@pytest.mark.parametrize("padding", ["before", "after"])
def test_records_whose_shown_part_is_mostly_missing_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, padding: Literal["before", "after"]
) -> None:
    """Of records of 8 to 12 s, the last or first 6 s are shown; 3 s of them may be missing, and what is before or
    behind does not count."""
    records = make_records({"N": 5, "A": 3})
    missing_s = {0: (0, 3.1), 1: (0, 3), 2: (2.9, 6), 3: (3, 9), 4: (6, 8)}  # from the end that is shown
    for number, (first, last) in missing_s.items():
        samples = records[number].signal.shape[1]
        edges = np.minimum(np.round(np.array([first, last]) * 100).astype(np.int64), samples)
        gap = np.sort(samples - edges) if padding == "before" else edges
        records[number] = replace(records[number], gaps=gap[None])
    shards = write_shards(tmp_path / "shards", records)
    with caplog.at_level(logging.WARNING):
        found = open_labelled(shards, seconds=6, padding=padding)
    assert found.records["record"].tolist() == [f"R{number:04d}" for number in (1, 3, 4, 5, 6, 7)]
    assert found.left_out == 2 and "would be shown is mostly missing: R0000, R0002" in caplog.text
    assert len(open_labelled(shards).records) == 8 - sum(np.diff(r.gaps).sum() > r.signal.shape[1] / 2 for r in records)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ecgray: ")]
    return line


def test_an_evaluation_on_another_databases_labels(
    labelled: Path, foreign: Path, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finetune(small(labelled, protocol={"epochs": 1}), tmp_path / "run")
    out = tmp_path / "out"
    words = ("evaluate", run, "--data", foreign, "--out", out)
    assert "got also AFIB, NSR, X; use data with the same classes, or say" in refused(capsys, *words)
    given = ("--labels", "NSR=N", "AFIB=A")
    assert "got also X; use data" in refused(capsys, *words, *given)
    assert "(left out), got 'X';" in refused(capsys, *words, *given, "X")
    assert "told once" in refused(capsys, *words, *given, "AFIB=N")
    unknown = refused(capsys, *words, *given, "X=", "AFL=A")
    assert "must be one of AFIB, NSR, O, X, got 'AFL=A'" in unknown
    assert "one of the classes N, A, O, ~, got 'X=a'" in refused(capsys, *words, *given, "X=a")
    assert not out.exists()

    assert main([str(word) for word in (*words, *given, "X=")]) == 0
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert predictions[predictions["seed"] == 0]["label"].value_counts().to_dict() == {"N": 5, "A": 4, "O": 3}
    stored = json.loads((out / "evaluation.json").read_text())
    assert stored["labels"] == ["NSR=N", "AFIB=A", "X="]
    assert stored["records"] == 12 and stored["records_left_out"] == 4
    assert json.loads((out / "scores.json").read_text())["splits"]["test"]["records"] == [12, 12]


def test_a_finetuning_run_counts_labels_alike_in_both_sets(
    labelled: Path, foreign: Path, small: Small, tmp_path: Path
) -> None:
    labels = ("NSR=N", "AFIB=A", "O=A", "X=", "~=")
    data = {"test_shards": str(foreign), "labels": labels}
    material = examine(small(labelled, data=data), None)
    assert material.classes == ("N", "A") and material.records == 108
    sides = material.splits[material.splits["seed"] == 0]
    assert sides[sides["split"] == "test"]["label"].value_counts().to_dict() == {"A": 7, "N": 5}
    assert sides[sides["split"] != "test"]["label"].value_counts().to_dict() == {"N": 60, "A": 48}
    run = finetune(small(labelled, data=data, protocol={"seeds": 1, "epochs": 1}), tmp_path / "run")
    assert read_config(run).data.labels == labels
    with pytest.raises(EcgrayError, match=r"data\.labels"):
        finetune(small(labelled, data=data | {"labels": labels[::-1]}), run, resume=True)
    with pytest.raises(EcgrayError, match=r"classes N, A, O, ~, got 'AFIB=a'"):
        examine(small(labelled, data=data | {"labels": ("NSR=N", "AFIB=a", "X=")}), None)
    with pytest.raises(EcgrayError, match="got 'AFL=A'"):
        examine(small(labelled, data=data | {"labels": (*labels, "AFL=A")}), None)


def test_labels_are_a_word_of_finetune(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("finetune", "weimann2021_cinc2017", "--pretrained", "none", "--data", foreign, "--out", tmp_path / "run")
    for word in ("--labels", "--data.labels"):
        assert "got 'AFL=A'" in refused(capsys, *words, word, "X=O", "AFL=A")
