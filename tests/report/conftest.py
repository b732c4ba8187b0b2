"""Runs that nobody trained: folders in exactly the stored format, with seeded random predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pytest

from ecgray.config import to_dict
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.folder import run_hash
from ecgray.finetuning.splits import COLUMNS, class_names, make_splits
from ecgray.recipes import RECIPES
from ecgray.shards.archive import open_archive
from ecgray.training.run import describe_environment

SHARES = {"N": 0.595, "A": 0.089, "O": 0.283, "~": 0.033}


class MakeRun(Protocol):
    def __call__(self, folder: Path, **options: Any) -> Path: ...


def labelled_records(count: int, database: str = "cinc2017") -> pd.DataFrame:
    """A table of records with CinC 2017's shares of classes."""
    labels = np.random.default_rng(1).choice(list(SHARES), count, p=list(SHARES.values()))
    names = [f"A{index:05d}" for index in range(count)]
    return pd.DataFrame(
        {"database": database, "record": names, "patient": names, "label": labels, "signal_hash": names}
    )


def write_fake_run(
    folder: Path,
    *,
    recipe: str = "weimann2021_cinc2017",
    pretraining: str | None = None,
    steps: int = 400,
    chosen_at: int | None = None,
    records: pd.DataFrame | int = 600,
    shards: str = "/nowhere/shards",
    seeds: int = 3,
    epochs: int = 30,
    skill: float = 0.7,
    seconds: float = 60.0,
    finished: int | None = None,
    changes: dict[str, Any] | None = None,
) -> Path:
    """A finetuning run of ``skill`` (share of records answered rightly), of which ``finished`` seeds are complete."""
    table = labelled_records(records) if isinstance(records, int) else records
    config: Any = RECIPES[recipe].make()
    assert isinstance(config, FinetuneConfig)
    start = None if pretraining is None else str(write_fake_pretraining(folder, pretraining, steps))
    config = replace(
        config,
        data=replace(config.data, shards=shards, seconds=seconds),
        protocol=replace(config.protocol, seeds=seeds, epochs=epochs),
        pretrained=start,
        **(changes or {}),
    )
    splits, classes = make_splits(table, None, config), class_names(table["label"])
    folder.mkdir(parents=True, exist_ok=True)
    hashes = [manifest.hash for manifest in open_archive([shards]).manifests] if Path(shards).is_dir() else ["fake"]
    sources = {"manifest_hashes": hashes, "test": "own", "pretrained": start and "sha"}
    origin: dict[str, Any] | None = None
    if start is not None:
        origin = {"folder": f"{start}/checkpoints/step-{steps:06d}", "sha256": "sha", "chosen_at": chosen_at or steps}
    environment = describe_environment() | {
        "config_hash": run_hash(config, sources),
        "manifest_hashes": hashes,
        "sources": sources,
        "starts": [{"time": "2026-01-02T03:04:05+0000"}],
        "classes": list(classes),
        "records": len(table),
        "records_left_out": 0,
        "pretrained": origin,
    }
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    (folder / "environment.json").write_text(json.dumps(environment))
    splits[COLUMNS].to_parquet(folder / "splits.parquet", index=False)
    parts = []
    for seed in range(seeds if finished is None else finished):
        parts.append(_write_seed(folder / "seeds" / f"seed-{seed:02d}", splits, seed, classes, skill, epochs))
    if parts and finished is None:
        pd.concat(parts, ignore_index=True).to_parquet(folder / "predictions.parquet", index=False)
    return folder


def write_fake_pretraining(beside: Path, recipe: str, steps: int) -> Path:
    """The pretraining run ``beside``-pretraining, without weights."""
    run = beside.with_name(f"{beside.name}-pretraining")
    (run / "checkpoints" / f"step-{steps:06d}").mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(to_dict(RECIPES[recipe].make())))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 2 * steps, "val_accuracy": 0.5}) + "\n")
    return run


def _write_seed(
    folder: Path, splits: pd.DataFrame, seed: int, classes: tuple[str, ...], skill: float, epochs: int
) -> pd.DataFrame:
    rng = np.random.default_rng([seed, round(skill * 1000)])
    own = skill + rng.normal(0, 0.012)
    rows = splits[(splits["seed"] == seed) & splits["split"].isin(["val", "test"])]
    truth = pd.Categorical(rows["label"], categories=list(classes)).codes.astype(int)
    # Errors fall on the neighbours more often than on the far class, and some records are hard for every seed.
    hard = np.random.default_rng(7).random(len(rows))
    wrong = 0.5 * hard + 0.5 * rng.random(len(rows)) > np.quantile(0.5 * hard + 0.5 * rng.random(len(rows)), own)
    said = np.where(wrong, rng.choice(len(classes), len(rows), p=[0.45, 0.15, 0.35, 0.05][: len(classes)]), truth)
    logits = rng.normal(0, 0.7, (len(rows), len(classes)))
    logits[np.arange(len(rows)), said] += 3
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    table = rows[["seed", "split", "database", "record", "patient", "label"]].reset_index(drop=True)
    table["predicted"] = np.asarray(classes, object)[probability.argmax(1)]
    for index, name in enumerate(classes):
        table[f"probability_{name}"] = probability[:, index].astype(np.float32)
    folder.mkdir(parents=True)
    table.to_parquet(folder / "predictions.parquet", index=False)
    count = epochs - int(rng.integers(0, max(epochs // 4, 1)))
    curve = own * (1 - 0.6 * np.exp(-np.arange(1, count + 1) / (6 if skill > 0.72 else 11)))
    curve = np.clip(curve + rng.normal(0, 0.015, count), 0, 1)
    lines = [
        {"epoch": epoch, "train_loss": 1 / epoch, "train_accuracy": 0.5, "val_loss": 1.0, "val_macro_f1": float(f1)}
        for epoch, f1 in enumerate(curve, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "complete").write_text("{}")
    return table


@pytest.fixture(scope="session")
def fake() -> MakeRun:
    return write_fake_run


def records_of(shards: Path) -> pd.DataFrame:
    """The labelled records of a shard set, as ``write_fake_run`` takes them."""
    archive = open_archive([shards])
    names = np.asarray(archive.patient_names, object)[archive.patient]
    return pd.DataFrame(
        {
            "database": archive.database,
            "record": archive.record_id,
            "patient": names,
            "label": [labels[0] for labels in archive.labels],
            "signal_hash": archive.signal_hash,
        }
    )


@pytest.fixture(scope="session")
def shard_records(labelled_shards: Path) -> pd.DataFrame:
    return records_of(labelled_shards)
