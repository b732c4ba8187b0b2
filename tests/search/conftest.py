"""A labelled shard set and settings so small that a trial takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ecgray.databases import DATABASES
from ecgray.databases.synthesise import write_labelled
from ecgray.finetuning.config import FinetuneConfig, FinetuneDataConfig, ProtocolConfig
from ecgray.models import ResNet
from ecgray.sampling.plan import SamplingConfig
from ecgray.search.config import ProbeConfig, SearchConfig, SweepConfig
from ecgray.shards.ingest import ingest
from ecgray.tasks import Beat
from ecgray.training.config import DataConfig, PretrainConfig, TrainingConfig

MakeSweep = Callable[..., SweepConfig]


@pytest.fixture(scope="session")
def labelled_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    write_labelled(root / "files", records=80, seed=0)
    ingest(DATABASES["synthetic"](), root / "files", root / "shards", workers=0, progress=False)
    return root / "shards"


@pytest.fixture
def two_cpus() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, dashboard_host="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def make_sweep(small_archive: Path, labelled_shards: Path) -> MakeSweep:
    """``make_sweep(**search)``: 8 steps of pretraining with one rung at 4, an epoch of finetuning."""

    def make(**search: object) -> SweepConfig:
        settings = SearchConfig(
            trials=2, startup_trials=2, reduction=2, rungs=1, seeds=1, epochs=1, final_seeds=0, train_fraction=0.3
        )
        return SweepConfig(
            space="test",
            pretrain=PretrainConfig(
                recipe="test",
                data=DataConfig(shards=(str(small_archive),)),
                sampling=SamplingConfig(
                    frame_size=256, frames_per_visit=16, pool_patients=3, val_fraction=0.25, val_frames_per_patient=5
                ),
                task=Beat(),
                model=ResNet(width=4),
                training=TrainingConfig(
                    steps=8, batch_size=16, validate_every=100, checkpoint_every=100, keep_checkpoints=1, threads=1
                ),
            ),
            finetune=FinetuneConfig(
                recipe="test",
                data=FinetuneDataConfig(shards=str(labelled_shards), seconds=8.0, train_fraction=0.5),
                protocol=ProtocolConfig(seeds=2, epochs=2, batch_size=16, val_fraction=0.2),
            ),
            search=replace(settings, **search),  # type: ignore[arg-type]
            probe=ProbeConfig(epochs=1),
        )

    return make
