"""Settings so small that a trial takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ecgray.finetuning.config import FinetuneConfig, FinetuneDataConfig, ProtocolConfig
from ecgray.search.config import ProbeConfig, SearchConfig, SweepConfig
from ecgray.training.config import PretrainConfig

MakeSweep = Callable[..., SweepConfig]


@pytest.fixture
def two_cpus() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, dashboard_host="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def make_sweep(make_config: Callable[..., PretrainConfig], labelled_shards: Path) -> MakeSweep:
    """``make_sweep(**search)``: 8 steps of pretraining with one rung at 4, an epoch of finetuning."""

    def make(**search: object) -> SweepConfig:
        settings = SearchConfig(
            trials=2, startup_trials=2, reduction=2, rungs=1, seeds=1, epochs=1, final_seeds=0, train_fraction=0.3
        )
        return SweepConfig(
            space="test",
            pretrain=make_config("beat", 4, steps=8, validate_every=100, checkpoint_every=100, keep_checkpoints=1),
            finetune=FinetuneConfig(
                recipe="test",
                data=FinetuneDataConfig(shards=str(labelled_shards), seconds=8.0, train_fraction=0.5),
                protocol=ProtocolConfig(seeds=2, epochs=2, batch_size=16, val_fraction=0.2),
            ),
            search=replace(settings, **search),  # type: ignore[arg-type]
            probe=ProbeConfig(epochs=1),
        )

    return make
