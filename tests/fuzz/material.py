"""Small real inputs to mutate: recordings in five formats, shard sets, a pretraining run, finetuning runs."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import wfdb

from ecgray.databases import CinC2017, MitBih
from ecgray.finetuning.config import FinetuneConfig, FinetuneDataConfig, ProtocolConfig
from ecgray.finetuning.evaluate import evaluate
from ecgray.finetuning.protocol import finetune
from ecgray.models import ResNet
from ecgray.sampling.plan import SamplingConfig
from ecgray.shards import ingest as stopping
from ecgray.shards.ingest import ingest
from ecgray.tasks import TASKS
from ecgray.training.config import DataConfig, PretrainConfig, TrainingConfig
from ecgray.training.pretraining import pretrain

DATA = Path(__file__).parents[1] / "data"
LABELS = "record,label,patient\nr,A;B,p1\nnot here,N,p2\n"
FRAMES = "record,start\n100,0\n106,1000\n201,5000\n"


def build(root: Path) -> None:
    """``root``/{wfdb16, wfdb212, wfdb80, ..., kinds, cinc2017, shards, frames, pretraining, finetuning, outside}."""
    torch.set_num_threads(1)
    (root / "outside").mkdir(parents=True)
    (root / "outside" / "secret.dat").write_bytes(bytes(8000))
    _recordings(root)
    shards = root / "shards"
    ingest(MitBih(), DATA / "mitdb", shards, workers=0, progress=False, shard_mb=0.1)
    labelled = root / "labelled"
    ingest(CinC2017(), root / "cinc2017", labelled, workers=0, progress=False, shard_mb=0.05)
    (root / "frames").mkdir()
    (root / "frames" / "FRAMES.csv").write_text(FRAMES)
    pretrain(pretraining(shards), root / "pretraining", show_progress=False)
    assert (root / "pretraining" / "best").resolve().name == "step-000002"
    runs = finetuning(labelled)
    finetune(runs, root / "finetuning")
    _stopped_ingest(root)
    stopped = root / "stopped"
    shutil.copytree(root / "finetuning", stopped)
    _stop(stopped)
    other = root / "other"
    ingest(CinC2017(), _others(root), other, workers=0, progress=False)
    evaluate(root / "finetuning", other, root / "evaluation")


def _recordings(root: Path) -> None:
    for name, form in (("wfdb16", "16"), ("wfdb80", "80"), ("wfdb24", "24"), ("wfdb516", "516")):
        folder = root / name
        folder.mkdir()
        source = wfdb.rdrecord(str(DATA / "mitdb" / "100"), sampto=4000, physical=False)
        digital = source.d_signal - (1024 if form == "80" else 0)
        if form == "80":
            digital = np.clip(digital // 8, -127, 127)
        wfdb.wrsamp(
            "r", 360, ["mV", "mV"], ["MLII", "V5"], d_signal=digital, fmt=[form] * 2, adc_gain=[200.0] * 2,
            baseline=[0] * 2, write_dir=str(folder), comments=["69 M 1085 1629 x1", "patient 7", "<age>: 69 <id>: 7"],
        )  # fmt: skip
        marks = [(50, "+", "(N"), (77, "N", ""), (370, "N", ""), (660, "A", ""), (2000, "+", "(AFIB"), (3900, "V", "")]
        sample, symbol, aux = zip(*marks, strict=True)
        wfdb.wrann("r", "atr", np.array(sample), list(symbol), aux_note=list(aux), fs=360, write_dir=str(folder))
        (folder / "labels.csv").write_text(LABELS)
        (folder / "linked.dat").symlink_to(root / "outside" / "secret.dat")
    kinds = root / "kinds"
    kinds.mkdir()
    (kinds / "a.edf").write_bytes((b"0       " + b" " * 160 + b"01.01.0101.01.01512     ").ljust(512))
    (kinds / "a.xml").write_text('<?xml version="1.0"?>\n<AnnotatedECG xmlns="urn:hl7-org:v3"></AnnotatedECG>\n')
    mitdb = root / "wfdb212"
    mitdb.mkdir()
    for suffix in ("hea", "atr"):
        shutil.copy(DATA / "mitdb" / f"102.{suffix}", mitdb / f"r.{suffix}")
    shutil.copy(DATA / "mitdb" / "102.dat", mitdb / "102.dat")
    (mitdb / "labels.csv").write_text(LABELS)
    (mitdb / "linked.dat").symlink_to(root / "outside" / "secret.dat")
    cinc = root / "cinc2017"
    (cinc / "training2017").mkdir(parents=True)
    for file in sorted((DATA / "cinc2017" / "training2017").iterdir()):
        if file.suffix == ".csv" or file.name == "RECORDS" or file.stem <= "A03389":
            shutil.copy(file, cinc / "training2017")
    for file in (DATA / "cinc2017").glob("*.csv"):
        shutil.copy(file, cinc)


def _stopped_ingest(root: Path) -> None:
    """As a kill leaves an ingest: every shard written, no manifest yet."""

    def killed(*arguments: object, **settings: object) -> NoReturn:
        raise KeyboardInterrupt

    finish, stopping.finish = stopping.finish, killed
    try:
        with contextlib.suppress(KeyboardInterrupt):
            ingest(CinC2017(), root / "cinc2017", root / "begun", workers=0, progress=False, shard_mb=0.05)
    finally:
        stopping.finish = finish


def _others(root: Path) -> Path:
    folder = root / "others"
    (folder / "training2017").mkdir(parents=True)
    for file in sorted((DATA / "cinc2017" / "training2017").iterdir()):
        if file.suffix == ".csv" or file.stem > "A03389":
            shutil.copy(file, folder / "training2017")
    for file in (DATA / "cinc2017").glob("*.csv"):
        shutil.copy(file, folder)
    return folder


def pretraining(shards: Path) -> PretrainConfig:
    return PretrainConfig(
        recipe="fuzz",
        data=DataConfig(shards=(str(shards),)),
        sampling=SamplingConfig(
            frame_size=256, frames_per_visit=16, pool_patients=3, val_fraction=0.25, val_frames_per_patient=5
        ),
        task=TASKS["beat"](),
        model=ResNet(width=2),
        training=TrainingConfig(
            steps=4, batch_size=8, validate_every=2, checkpoint_every=2, log_every=1, keep_checkpoints=2, threads=1
        ),
    )


def finetuning(shards: Path) -> FinetuneConfig:
    """A config that the labelled set of this room is enough for."""
    return FinetuneConfig(
        recipe="fuzz",
        data=FinetuneDataConfig(shards=str(shards), fs=100.0, seconds=4.0, train_fraction=0.5),
        protocol=replace(ProtocolConfig(), seeds=1, epochs=1, batch_size=8, val_fraction=0.25, test_fraction=0.25),
        model=ResNet(width=2),
    )


def _stop(run: Path) -> None:
    """As a kill leaves a seed: in the middle of its training."""
    import ecgray.finetuning.seed_run as seed_run
    from ecgray.finetuning.folder import read_config
    from ecgray.finetuning.seed_state import History, save_state
    from ecgray.training.model_folder import read_model

    seed = run / "seeds" / "seed-00"
    network, _ = read_model(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=read_config(run).optimiser.learning_rate)
    network(torch.zeros(1, 1, 400)).sum().backward()
    optimiser.step()
    save_state(seed / seed_run.STATE, network, optimiser, History(epoch=1, best_epoch=1, epochs=[{"epoch": 1}]), {})
