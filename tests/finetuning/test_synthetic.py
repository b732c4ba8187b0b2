"""From synthetic WFDB files to scores and back to a network, as a newcomer does it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

from ecgray import load
from ecgray.databases.synthesise import write_labelled
from ecgray.databases.synthetic import Synthetic
from ecgray.finetuning.config import FinetuneConfig, FinetuneDataConfig, ProtocolConfig
from ecgray.finetuning.evaluate import evaluate
from ecgray.finetuning.protocol import finetune
from ecgray.models.resnet import ResNet
from ecgray.shards.ingest import ingest


def synthesised(folder: Path, records: int, seed: int) -> Path:
    write_labelled(folder / "wfdb", records=records, seed=seed)
    ingest(Synthetic(), folder / "wfdb", folder / "shards", workers=0, progress=False)
    return folder / "shards"


def test_labelled_files_to_scores(tmp_path: Path) -> None:
    config = FinetuneConfig(
        recipe="test",
        data=FinetuneDataConfig(shards=str(synthesised(tmp_path / "a", 60, 0)), seconds=10.0),
        protocol=ProtocolConfig(seeds=2, epochs=2, batch_size=16),
        model=ResNet(width=8),
    )
    run = finetune(config, tmp_path / "run")
    scores = json.loads((run / "scores.json").read_text())
    test = pd.read_parquet(run / "predictions.parquet").query("split == 'test'")
    expected = [
        f1_score(part["label"], part["predicted"], labels=scores["classes"], average="macro", zero_division=0)
        for _, part in test.groupby("seed")
    ]
    assert scores["splits"]["test"]["scores"]["macro_f1"]["values"] == pytest.approx(expected)
    model = load(run)
    assert model.classes == tuple(scores["classes"]) and model.fs == 250.0
    with torch.inference_mode():
        assert model(torch.zeros(1, 1, 2500)).shape == (1, len(model.classes))
    out = evaluate(run, synthesised(tmp_path / "b", 20, 1), tmp_path / "out")
    assert json.loads((out / "scores.json").read_text())["seeds"] == [0, 1]
