"""Every seed of a finetuning run on labelled records that none of its splits, nor its pretraining, has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ecgray.errors import EcgrayError, counted
from ecgray.evaluation.scores import class_indices, result, score_predictions
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.folder import read_config, seed_folder, write_json_atomically, write_parquet_atomically
from ecgray.finetuning.labelled import open_labelled, refuse_overlap, refuse_unknown_labels
from ecgray.finetuning.prepare import Preprocessing, prepare
from ecgray.finetuning.pretrained import refuse_pretraining_records
from ecgray.finetuning.seed_run import is_complete, predict, prediction_table
from ecgray.finetuning.stored import read_environment, read_splits
from ecgray.finetuning.tested import signals_hash
from ecgray.progress import Progress, announce
from ecgray.shards.partial import PARTIAL
from ecgray.shards.storage import is_remote, list_files, resolve
from ecgray.shards.working import written
from ecgray.training.distributed import best_device
from ecgray.training.model_folder import ModelDescription, read_model
from ecgray.training.published import fetched_run
from ecgray.training.run import describe_environment
from ecgray.training.threads import threads

FILES = ("scores.json", "predictions.parquet", "evaluation.json")
"""Of an evaluation, in the order in which they are written."""


@threads()
def evaluate(
    run: Path | str, data: Path | str, out: Path | str, labels: Sequence[str] = (), *, show_progress: bool = True
) -> Path | str:
    """Predict the records of the shard set ``data`` with every finished seed of ``run``; returns ``out``.

    ``labels`` says what labels of ``data`` count as: AFIB=A, or AFIB= to leave its records out.

    The preprocessing is the one stored with each model: its training set's mean and sd, its rate, length and padding.
    Leads are brought into the model's order by their names; a single lead may have another name.
    Written: predictions.parquet and scores.json as a finetuning run has them (split "test"), and evaluation.json.

    Raises EcgrayError, before anything is written, for records that the run has trained, validated or tested on, or
    was pretrained on (by name or signal, with the list), for labels that count as no class of it, and for other leads.
    """
    out = resolve(out) if is_remote(out) else Path(out).expanduser().absolute()
    finished = finished_run(run)
    place, description = finished.place, finished.description
    _refuse_other_files(out)
    how = stored_preprocessing(description)
    given = open_labelled(data, labels, seconds=how.length_samples / how.fs, padding=how.padding)
    splits = read_splits(finished.folder / "splits.parquet")
    used = splits[splits["split"] != "unused"].drop_duplicates(["database", "record"])
    refuse_overlap(given.records, used, f"the records that {place} has used")
    environment = read_environment(finished.folder)
    origin, compared = environment.get("pretrained"), None
    if origin is not None:
        compared = refuse_pretraining_records(given.records, given.archive, origin)
    archive = given.archive.in_order(description.leads)
    refuse_unknown_labels(labels, [given], description.classes)
    class_indices(given.records["label"], description.classes)
    count, seeds = len(given.records), len(finished.seeds)
    announce(
        show_progress,
        f"evaluate {place}: {counted(seeds, 'seed')} on {counted(count, 'record')} of "
        f"{counted(given.records['patient'].nunique(), 'patient')}, on {best_device()}; writes to {out}",
    )
    signals = prepare(archive, given.records["index"].to_numpy(np.int64), how)
    rows = np.arange(len(signals))
    parts = []
    with Progress("evaluate", seeds * count, "record", show=show_progress) as progress:
        for seed, network in zip(finished.seeds, finished.networks, strict=True):
            probability = predict(network, signals, rows, finished.config, progress)
            progress.base += count
            table = given.records.assign(seed=seed, split="test")
            parts.append(prediction_table(table, probability, description.classes))
    predictions = pd.concat(parts, ignore_index=True)
    details = {
        "run": place,
        "config_hash": environment.get("config_hash"),
        "data": given.archive.paths[0],
        "labels": list(labels),
        "manifest_hashes": [manifest.hash for manifest in given.archive.manifests],
        "records": len(given.records),
        "signals": signals_hash(given.records),
        "records_left_out": given.left_out,
        "pretraining_records_compared": compared,
    }
    scores = score_predictions(predictions, description.classes)
    with written(out, *FILES) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomically(folder / "scores.json", scores)
        write_parquet_atomically(folder / "predictions.parquet", predictions)
        write_json_atomically(folder / "evaluation.json", details | describe_environment())
    announce(show_progress, f"done: {result(scores)}")
    return out


def _refuse_other_files(out: Path | str) -> None:
    """Raises EcgrayError for a folder that holds more than an evaluation leaves that was killed: its scores, then its
    predictions, and no evaluation.json, which comes last."""
    if isinstance(out, str):
        there = set(list_files(out))
    else:
        there = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    names = {name.split(PARTIAL)[0] for name in there}
    killed = "evaluation.json" not in there and "scores.json" in names <= set(FILES)
    if (there and not killed) or (isinstance(out, Path) and out.exists() and not out.is_dir()):
        raise EcgrayError(
            f"An evaluation must go into a new folder, got {out}, which is not empty; give another --out."
        )


@dataclass(frozen=True)
class FinishedRun:
    """A finetuning run at ``place`` (a path or a URL), to be read in ``folder``: the networks of its finished seeds, on
    the best device, and what all of them share."""

    place: str
    folder: Path
    config: FinetuneConfig
    seeds: tuple[int, ...]
    networks: tuple[nn.Module, ...]
    description: ModelDescription


def finished_run(run: Path | str) -> FinishedRun:
    """The finetuning run at a path or URL. Raises EcgrayError for another folder, and where no seed has finished."""
    place = resolve(run) if is_remote(run) else str(Path(run).expanduser().absolute())
    folder = fetched_run(place) if is_remote(place) else Path(place)
    if (folder / "checkpoints").is_dir():
        raise EcgrayError(
            f"A finetuning run is needed, got {place}, which is a pretraining run; finetune it first (ecgray finetune "
            f"RECIPE --data LABELLED --pretrained {place} --out RUN) and give that. Its accuracy in its own task is in "
            "'ecgray runs' and, validation by validation, in its metrics.jsonl."
        )
    config = read_config(folder)
    seeds = tuple(seed for seed in config.protocol.seed_numbers if is_complete(seed_folder(folder, seed)))
    if not seeds:
        raise EcgrayError(f"A run must have a finished seed, got none in {place}; go on with it by --resume.")
    models = [read_model(seed_folder(folder, seed)) for seed in seeds]
    networks = tuple(network.to(best_device()) for network, _ in models)
    return FinishedRun(place, folder, config, seeds, networks, models[0][1])


def stored_preprocessing(description: ModelDescription) -> Preprocessing:
    """What a finetuned model says of its input. Raises EcgrayError for a model without a fixed length."""
    if description.length_samples is None or description.padding is None:
        raise EcgrayError(
            "A finetuned model must carry the length of its input, got none in model.json; evaluate a finetuning run."
        )
    return Preprocessing(
        mean_mv=description.mean_mv,
        sd_mv=description.sd_mv,
        fs=description.fs,
        length_samples=description.length_samples,
        padding=description.padding,
    )
