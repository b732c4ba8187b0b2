"""A database, a task, a network and an objective from outside: one class and one line in a table, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ecgray
from ecgray.databases import DATABASES
from ecgray.databases.record import Database, Record, Reference
from ecgray.models import FAMILIES
from ecgray.models.base import Encoder, Model
from ecgray.recipes import find_recipe
from ecgray.shards.ingest import ingest
from ecgray.tasks import TASKS
from ecgray.tasks.base import Task
from ecgray.training.objectives import OBJECTIVES, Objective
from ecgray.training.pretraining import pretrain


@dataclass(frozen=True, kw_only=True)
class Waves(Database):
    """Sine waves of one frequency per patient."""

    name: ClassVar[str] = "waves"
    title: ClassVar[str] = "Sine waves"
    licence: ClassVar[str] = "none"
    citation: ClassVar[str] = "none"

    def find(self, root: Path) -> Sequence[Reference]:
        return [Reference(record=f"w{i}", patient=f"p{i}", path=root) for i in range(8)]

    def read(self, reference: Reference) -> Record:
        hz = 1 + int(reference.record[1:])
        wave = 100 * np.sin(2 * np.pi * hz * np.arange(5000) / 100)
        return Record(
            id=reference.record,
            patient=reference.patient,
            database=self.name,
            fs=100.0,
            leads=("wave",),
            signal=wave.astype(np.int16)[None],
            gain=np.array([100.0]),
            baseline=np.array([0.0]),
        )


@dataclass(frozen=True, kw_only=True)
class Half(Task):
    """Whether a frame lies in the first or the second half of its record's first 50 s."""

    name: ClassVar[str] = "half"
    paper: ClassVar[str] = "none"

    @property
    def classes(self) -> tuple[str, ...]:
        return ("first", "second")

    def targets(self, record: Any, start: Any, frame_size: int, annotations: Any) -> Any:
        return (start >= 2500).astype(np.int64)


class Mean(Encoder):
    """A linear map of each lead's mean and deviation."""

    input_weight = "first.weight"

    def __init__(self, leads: int) -> None:
        super().__init__()
        self.leads, self.features = leads, 4
        self.first = nn.Linear(2 * leads, 4)

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.first]

    def forward(self, signal: Tensor) -> Tensor:
        return self.first(torch.cat([signal.mean(2), signal.std(2)], 1))


@dataclass(frozen=True, kw_only=True)
class MeanModel(Model):
    name: ClassVar[str] = "mean"

    def encoder(self, leads: int) -> Encoder:
        return Mean(leads)


@dataclass(frozen=True, kw_only=True)
class Brier(Objective):
    """Squared error of the probabilities."""

    name: ClassVar[str] = "brier"

    def losses(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        hot = nn.functional.one_hot(target, logits.shape[1])
        return ((logits.softmax(1) - hot) ** 2).sum(1)


def test_one_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for table, member in ((DATABASES, Waves), (TASKS, Half), (FAMILIES, MeanModel), (OBJECTIVES, Brier)):
        monkeypatch.setitem(table, member.name, member)
    (tmp_path / "files").mkdir()
    ingest(DATABASES["waves"](), tmp_path / "files", tmp_path / "shards", workers=0, progress=False)
    config: Any = find_recipe("weimann2021_beat", "pretrain").make()
    config = replace(
        config,
        data=replace(config.data, shards=(str(tmp_path / "shards"),)),
        task=Half(),
        model=MeanModel(),
        objective=Brier(),
        sampling=replace(config.sampling, frame_size=200, val_fraction=0.25, val_frames_per_patient=4),
        training=replace(config.training, steps=4, batch_size=8, validate_every=4, checkpoint_every=4, threads=1),
    )
    run = pretrain(config, tmp_path / "run", show_progress=False)
    network = ecgray.load(run)
    assert network.classes == ("first", "second")
    assert network(torch.zeros(3, 1, 200)).shape == (3, 2)
