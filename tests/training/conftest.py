"""A config small enough to train in a second, on the small shard set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ecgray.models import ResNet
from ecgray.sampling.plan import SamplingConfig
from ecgray.tasks import TASKS
from ecgray.training.config import DataConfig, PretrainConfig, TrainingConfig

MakeConfig = Callable[..., PretrainConfig]


@pytest.fixture
def make_config(small_archive: Path) -> MakeConfig:
    """``make_config(task, **training)``: 12 steps of 16 frames of 256 samples, one thread."""

    def make(task: str = "beat", **training: Any) -> PretrainConfig:
        settings = TrainingConfig(
            steps=12, batch_size=16, validate_every=4, checkpoint_every=3, log_every=5, keep_checkpoints=2, threads=1
        )
        return PretrainConfig(
            recipe="test",
            data=DataConfig(shards=(str(small_archive),)),
            sampling=SamplingConfig(
                frame_size=256, frames_per_visit=16, pool_patients=3, val_fraction=0.25, val_frames_per_patient=5
            ),
            task=TASKS[task](),
            model=ResNet(width=8),
            training=replace(settings, **training),
        )

    return make


@pytest.fixture(autouse=True)
def same_threads() -> Any:
    """Training sets the number of threads; the tests after it get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
