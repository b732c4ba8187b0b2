"""Every recipe through two real steps at a size that a test can bear, every finetuning one to a row of a report."""

from __future__ import annotations

import csv
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecgray.databases.synthesise import write_labelled
from ecgray.databases.synthetic import Synthetic
from ecgray.finetuning.protocol import finetune
from ecgray.recipes import RECIPES
from ecgray.report.report import write_report
from ecgray.shards.ingest import ingest
from ecgray.training.pretraining import pretrain

PRETRAINING = [name for name, recipe in RECIPES.items() if recipe.stage == "pretrain"]
FINETUNING = [name for name, recipe in RECIPES.items() if recipe.stage == "finetune"]


def pretrain_small(name: str, shards: Path, out: Path) -> Path:
    config: Any = RECIPES[name].make()
    config = replace(
        config,
        data=replace(config.data, shards=(str(shards),)),
        model=replace(config.model, width=8),
        sampling=replace(config.sampling, val_fraction=0.2, val_frames_per_patient=1, pool_patients=4),
        training=replace(config.training, steps=2, batch_size=8, validate_every=2, checkpoint_every=2, threads=1),
    )
    return pretrain(config, out, show_progress=False)


@pytest.fixture(scope="module")
def pretrained(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of every pretraining recipe."""
    folder = tmp_path_factory.mktemp("pretrained")
    return {name: pretrain_small(name, small_archive, folder / name) for name in PRETRAINING}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    write_labelled(folder / "files", records=60, seed=3)
    ingest(Synthetic(), folder / "files", folder / "shards", workers=0, progress=False)
    return folder / "shards"


def test_every_pretraining_recipe_trains(pretrained: dict[str, Path]) -> None:
    for name, run in pretrained.items():
        assert (run / "checkpoints" / "step-000002" / "complete").is_file(), name


def test_every_finetuning_recipe_gives_a_row(
    pretrained: dict[str, Path], labelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("finetuned")
    runs = []
    for name in FINETUNING:
        config: Any = RECIPES[name].make()
        before = RECIPES[name].pretrained_by
        config = replace(
            config,
            data=replace(config.data, shards=str(labelled), seconds=2.0),
            model=replace(config.model, width=8),
            protocol=replace(config.protocol, seeds=1, epochs=2),
            pretrained=None if before is None else str(pretrained[before]),
        )
        runs.append(finetune(config, folder / name))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout not applied")  # figures without room for axes
        write_report(runs, folder / "report")
    with (folder / "report" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["recipe"] for row in rows} == set(FINETUNING)
