"""Finetuning as Weimann & Conrad 2021 do it: one fixed test set, several re-drawn splits and heads.

All seeds train and choose their epoch first. Only then are the test records read from the shards and prepared, once,
and every chosen network predicts them once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ecgray.control_groups import memory_limit
from ecgray.errors import EcgrayError, counted
from ecgray.evaluation.scores import class_indices, result, score_predictions
from ecgray.finetuning.config import FinetuneConfig, FinetuneDataConfig
from ecgray.finetuning.folder import open_folder, run_hash, seed_folder, write_json_atomically, write_parquet_atomically
from ecgray.finetuning.labelled import LabelledSet, open_labelled, refuse_unknown_labels
from ecgray.finetuning.prepare import Preprocessing, prepare
from ecgray.finetuning.pretrained import Pretrained, check_fits, open_pretrained, refuse_pretraining_records
from ecgray.finetuning.seed_run import (
    PREDICTIONS,
    STATE,
    SeedJob,
    Signals,
    choose_epoch,
    is_chosen,
    is_complete,
    open_test,
)
from ecgray.finetuning.splits import COLUMNS, cap_records, class_names, make_splits
from ecgray.finetuning.stored import read_predictions
from ecgray.models.classifier import Classifier
from ecgray.models.transfer import freeze_blocks
from ecgray.processor import has_fast_bf16
from ecgray.progress import Progress, announce, duration
from ecgray.shards.storage import join, resolve
from ecgray.shards.working import pull
from ecgray.training.distributed import best_device
from ecgray.training.model_folder import ModelDescription, check_batch, json_lines
from ecgray.training.run import RunFolder

Work = Callable[[SeedJob, Signals], None]


def finetune(
    config: FinetuneConfig,
    out: Path | str,
    *,
    workers: int = 0,
    resume: bool = False,
    with_test: bool = True,
    most_cpus: float = math.inf,
    show_progress: bool = True,
) -> Path | str:
    """Run all seeds and return the run folder ``out``, a path or a URL (its content: ``ecgray.finetuning.folder``).

    ``workers`` 0: one seed after another in this process, without Ray; else that many at a time on Ray. ``resume``: go
    on with what ``out`` holds, seed by seed and epoch by epoch (a new run where it holds none). ``with_test`` False:
    the test records stay closed, and the run has scores on validation alone until it is resumed with them.
    ``most_cpus``: what each worker may reserve, for runs side by side.

    Raises EcgrayError, before anything is written, for data without labels, for test records that the pretraining run
    has seen (with the list), and for a pretrained network that does not fit.
    """
    if workers < 0:
        raise EcgrayError(f"The number of workers must be 0 or more, got {workers}; 0 runs in this process.")
    config = _with_absolute_paths(config)
    pretrained = None if config.pretrained is None else open_pretrained(config.pretrained)
    material = examine(config, pretrained)
    labelled, test_set, classes, splits = material.labelled, material.test_set, material.classes, material.splits
    own_test = config.data.test_shards is None
    sources: dict[str, Any] = {
        "manifest_hashes": [manifest.hash for manifest in labelled.archive.manifests],
        "test": "own" if own_test else None if test_set is None else test_set.archive.manifests[0].hash,
        "pretrained": None if pretrained is None else pretrained.sha256,
    }
    details = {
        "classes": list(classes),
        "records": material.records,
        "records_left_out": labelled.left_out,
        "pretrained": material.origin,
    }
    with open_folder(out, config, sources, details, resume=resume) as run:
        write_parquet_atomically(run.path / "splits.parquet", splits[COLUMNS])
        run.publish(run.path / "splits.parquet")
        how = preprocessing_of(config, labelled)
        description = ModelDescription(
            model=config.model,
            classes=classes,
            leads=labelled.archive.leads,
            fs=how.fs,
            mean_mv=how.mean_mv,
            sd_mv=how.sd_mv,
            length_samples=how.length_samples,
            padding=how.padding,
            config_hash=run_hash(config, sources),
            manifest_hashes=tuple(sources["manifest_hashes"]),
        )
        announce(show_progress, *_before(config, material, workers, run.place))
        jobs, pool = _jobs(config, run, splits, description, pretrained)
        training = [job for job in jobs if not is_chosen(job.folder)]
        if training:
            signals = prepare(labelled.archive, pool["index"].to_numpy(), how)
            _train(training, signals, workers, most_cpus, show_progress)
            del signals
            _gather(run)
        opening = [job for job in jobs if not is_complete(job.folder)]
        if opening and with_test:
            rows = splits[(splits["split"] == "test") & (splits["seed"] == config.protocol.first_seed)]
            opened = test_set or labelled
            signals = prepare(opened.archive, rows["index"].to_numpy(np.int64), how)
            _test(opening, signals, workers, most_cpus, show_progress)
            _gather(run)
        scores = collect([job.folder for job in jobs], run.path, classes)
        run.publish(run.path / "predictions.parquet", run.path / "scores.json")
        announce(show_progress, f"done: {result(scores)}")
        return run.place


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a finetuning run works on.

    test_set: another shard set that holds the test, None where the test is part of ``labelled`` or there is none;
    records: how many of ``labelled`` are used; splits: see ``make_splits``; origin: what the run keeps of its
    pretrained network, None for random weights.
    """

    labelled: LabelledSet
    test_set: LabelledSet | None
    records: int
    classes: tuple[str, ...]
    splits: pd.DataFrame
    origin: dict[str, Any] | None


def examine(config: FinetuneConfig, pretrained: Pretrained | None) -> Material:
    """Open what ``config`` asks for and refuse, with an EcgrayError, what ``finetune`` cannot do with it. Nothing is
    written, and no signal read."""
    labelled = _open(config.data.shards, config.data)
    if pretrained is not None:
        check_fits(pretrained, config.model, labelled.archive.leads)
        if len(pretrained.description.leads) > 1:
            labelled = replace(labelled, archive=labelled.archive.in_order(pretrained.description.leads))
    own_test = config.data.test_shards is None
    test_set = _open_test_set(config, labelled)
    records = cap_records(labelled.records, config.data.records, config.protocol.split_seed)
    classes = class_names(records["label"])
    refuse_unknown_labels(config.data.labels, [labelled] if test_set is None else [labelled, test_set], classes)
    if not own_test and test_set is not None:
        class_indices(test_set.records["label"], classes)
    tests = None if own_test else records.iloc[:0] if test_set is None else test_set.records
    splits = make_splits(records, tests, config)
    origin: dict[str, Any] | None = None
    if pretrained is not None:
        origin = pretrained.origin() | {"test_records_compared": None}
        if own_test or test_set is not None:
            test = splits[splits["split"] == "test"]
            origin["test_records_compared"] = refuse_pretraining_records(test, (test_set or labelled).archive, origin)
    _check_memory(config, splits, len(labelled.archive.leads))
    _check_network(config, splits, len(labelled.archive.leads), len(classes))
    return Material(
        labelled=labelled, test_set=test_set, records=len(records), classes=classes, splits=splits, origin=origin
    )


def _open(shards: str, data: FinetuneDataConfig) -> LabelledSet:
    return open_labelled(shards, data.labels, seconds=data.seconds, padding=data.padding)


def _gather(run: RunFolder) -> None:
    """Have here what the seeds published, wherever they ran."""
    if run.url is not None:
        pull(run.url, run.path, lambda name: name.startswith("seeds/") and not name.endswith(f"/{STATE}"))


def _check_memory(config: FinetuneConfig, splits: pd.DataFrame, leads: int) -> None:
    """Raises EcgrayError where the prepared signals of all seeds, or of the test, are more than memory holds."""
    test = splits["split"] == "test"
    records, length = max(splits[part]["index"].nunique() for part in (test, ~test)), config.data.length_samples
    needed, there = 4 * records * leads * length, memory_limit()
    if needed > there:
        raise EcgrayError(
            f"The prepared signals must fit into memory, got {records} records of {leads} x {length} samples, "
            f"{needed / 1e9:.3g} GB, and {there / 1e9:.3g} GB of memory; take less of each record "
            "(--data.seconds), a lower --data.fs, or fewer records (--data.records)."
        )


def _check_network(config: FinetuneConfig, splits: pd.DataFrame, leads: int, classes: int) -> None:
    """Raises EcgrayError where the blocks cannot be frozen, or the last batch of an epoch is too small to train on."""

    def make() -> Classifier:
        encoder = config.model.encoder(leads)
        freeze_blocks(encoder, config.freeze_blocks)
        return Classifier(encoder, classes)

    size = config.protocol.batch_size
    smallest = min(count % size or size for count in splits[splits["split"] == "train"].groupby("seed").size())
    check_batch(make, smallest, leads, config.data.length_samples)


def preprocessing_of(config: FinetuneConfig, labelled: LabelledSet) -> Preprocessing:
    """The labelled set's own mean and sd (of its manifest), and the rate, length and padding of the config."""
    return Preprocessing(
        mean_mv=labelled.archive.mean_mv,
        sd_mv=labelled.archive.sd_mv,
        fs=config.data.fs,
        length_samples=config.data.length_samples,
        padding=config.data.padding,
    )


def collect(folders: Sequence[Path], out: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Join the seeds' predictions into out/predictions.parquet and score them into out/scores.json."""
    predictions = pd.concat([read_predictions(folder / PREDICTIONS) for folder in folders], ignore_index=True)
    write_parquet_atomically(out / "predictions.parquet", predictions)
    scores = score_predictions(predictions, classes)
    write_json_atomically(out / "scores.json", scores)
    return scores


def _with_absolute_paths(config: FinetuneConfig) -> FinetuneConfig:
    """So that workers elsewhere on the machine, and a later evaluation, find the same folders."""

    def absolute(path: str | None) -> str | None:
        return path if path is None or path in ("", "none") else resolve(path)

    data = replace(
        config.data, shards=absolute(config.data.shards) or "", test_shards=absolute(config.data.test_shards)
    )
    pretrained = None if config.pretrained == "none" else absolute(config.pretrained)
    return replace(config, data=data, pretrained=pretrained)


def _open_test_set(config: FinetuneConfig, labelled: LabelledSet) -> LabelledSet | None:
    """The other shard set that holds the test, None where the test is part of ``labelled`` or there is none."""
    if config.data.test_shards in (None, "none"):
        return None
    test_set = _open(config.data.test_shards or "", config.data)
    return replace(test_set, archive=test_set.archive.in_order(labelled.archive.leads))


def _jobs(
    config: FinetuneConfig,
    run: RunFolder,
    splits: pd.DataFrame,
    description: ModelDescription,
    pretrained: Pretrained | None,
) -> tuple[list[SeedJob], pd.DataFrame]:
    """A job per seed, and the pool: the records (with ``index``) that some seed trains or validates on, once each."""
    used = splits[splits["split"].isin(["train", "val"])]
    pool = used.drop_duplicates("index").sort_values("index").reset_index(drop=True)
    row_of = pd.Series(np.arange(len(pool)), index=pool["index"])
    jobs = []
    for seed in config.protocol.seed_numbers:
        own = splits[splits["seed"] == seed].reset_index(drop=True)
        parts = {name: own[own["split"] == name] for name in ("train", "val")}
        rows = {name: row_of[part["index"]].to_numpy(np.int64) for name, part in parts.items()}
        jobs.append(
            SeedJob(
                config=config,
                description=description,
                folder=seed_folder(run.path, seed),
                url=None if run.url is None else join(run.url, "seeds", seed_folder(run.path, seed).name),
                seed=seed,
                splits=own[own["split"].isin(["val", "test"])],
                train=rows["train"],
                train_labels=class_indices(parts["train"]["label"], description.classes),
                val=rows["val"],
                val_labels=class_indices(parts["val"]["label"], description.classes),
                pretrained=None if pretrained is None else pretrained.folder,
            )
        )
    return jobs, pool


def _before(config: FinetuneConfig, material: Material, workers: int, place: Path | str) -> tuple[str, ...]:
    """What is said before the first epoch: on what, of what, where."""
    splits, protocol = material.splits, config.protocol
    of_seed = splits[splits["seed"] == protocol.first_seed]
    patients, sides = of_seed["patient"].nunique(), of_seed["split"].value_counts()
    network = Classifier(config.model.encoder(len(material.labelled.archive.leads)), len(material.classes))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    counts = ", ".join(f"{sides[part]:,} {word}" for part, word in _PARTS.items() if part in sides)
    on = f"{counted(workers, 'worker')} of Ray" if workers else str(best_device())
    on += f", {counted(torch.get_num_threads(), 'thread')}" if on == "cpu" else ""
    return (
        f"finetune {config.recipe}: {counted(material.records, 'record')} of {counted(patients, 'patient')}, "
        f"{len(material.classes)} classes ({', '.join(material.classes)[:60]})",
        f"{counted(protocol.seeds, 'seed')}, each with {counts}; at most {counted(protocol.epochs, 'epoch')} of "
        f"{config.data.seconds:g} s at {config.data.fs:g} Hz",
        f"{config.model.name} of {parameters:,} parameters, from "
        + ("random weights" if config.pretrained is None else str(config.pretrained)),
        f"on {on}; writes to {place}",
    )


_PARTS = {"train": "to train on", "val": "to validate", "test": "to test"}
LONG_S = 600.0
"""Finetuning on a CPU that takes longer is told what makes it shorter."""


def _shorter(config: FinetuneConfig, records: int, left_s: float, epochs_per_s: float) -> str | None:
    """How long it takes, and the words that make it shorter; None for what is short."""
    if left_s < LONG_S:
        return None
    offers = {
        "--seeds 3": config.protocol.seeds > 3,
        "--protocol.epochs 20": config.protocol.epochs > 20,
        "--data.seconds 20": config.data.seconds > 20,
        "--model.width 16": config.pretrained is None and getattr(config.model, "width", 0) > 16,
        "--precision bf16": config.precision == "fp32" and has_fast_bf16(),
    }
    words = [word for word, helps in offers.items() if helps]
    return f"at most {duration(left_s)} on this CPU at {epochs_per_s * records:,.3g} records/s" + (
        f"; shorter: {' or '.join(words)}" if words else ""
    )


def _train(jobs: Sequence[SeedJob], signals: Signals, workers: int, most_cpus: float, show: bool) -> None:
    """All epochs of all seeds."""
    epochs, seeds = jobs[0].config.protocol.epochs, len(jobs)
    with Progress("finetune", seeds * epochs, "epoch", show=show) as progress:
        if workers:
            _on_ray(choose_epoch, jobs, signals, workers, most_cpus, lambda: _look(jobs, progress))
            return
        if best_device().type == "cpu":
            records = len(jobs[0].train)
            progress.advise(lambda left, rate: _shorter(jobs[0].config, records, left, rate))
        for number, job in enumerate(jobs):
            progress.what, progress.base, progress.part = f"seed {number + 1} of {seeds}", number * epochs, epochs
            choose_epoch(replace(job, progress=progress if show else None), signals)


def _test(jobs: Sequence[SeedJob], signals: Signals, workers: int, most_cpus: float, show: bool) -> None:
    with Progress("test", len(jobs), "seed", show=show) as progress:
        if workers:
            _on_ray(open_test, jobs, signals, workers, most_cpus, lambda: progress.to(sum(map(_is_tested, jobs))))
            return
        for number, job in enumerate(jobs):
            progress.to(number)
            open_test(job, signals)


def _is_tested(job: SeedJob) -> bool:
    return is_complete(job.folder)


def _on_ray(
    work: Work, jobs: Sequence[SeedJob], signals: Signals, workers: int, most_cpus: float, look: Callable[[], None]
) -> None:
    from ecgray.finetuning.ray_seeds import run_on_ray

    run_on_ray(work, jobs, signals, min(workers, jobs[0].config.protocol.seeds), look, most_cpus)


def _look(jobs: Sequence[SeedJob], progress: Progress) -> None:
    """How far seeds are that run elsewhere, by what they have written into the folder of the run."""
    epochs, done, best = jobs[0].config.protocol.epochs, 0, 0.0
    for job in jobs:
        file = job.folder / "metrics.jsonl"
        rows = json_lines(file.read_bytes()) if file.is_file() else []
        done += epochs if is_chosen(job.folder) else len(rows)
        best = max([best, *(row.get("val_macro_f1", 0.0) for row in rows)])
    progress.say(best=f"best F1 {best:.3f}" if best else "")
    progress.to(done)
