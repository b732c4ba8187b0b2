"""``ecgray plan``: what a pretraining takes on a cluster that is not there yet.

The archive is of a size: patients, records, hours, fs (Hz), leads; int16. By default it is all of Icentia11K
(PhysioNet's release 1.0; papers.md W1, W2): 11,000 patients, 541,794 segments of 1,048,577 samples at 250 Hz, one lead,
1.136 TB of signal. With n GPUs on m nodes, batch B, lanes L and frames of F samples:

    bytes of signal       hours x 3600 x fs x leads x 2
    training patients     patients - round(val_fraction patients); each is taken to have a record that is long enough
    steps                 training.steps, else training patients x frames_per_patient // B
    shards                ceil(bytes of signal / shard_mb), at most one a record
    frames per GPU, b     B / L x ceil(L / n): the worker with most lanes is waited for
    compute               b / frames/s of one GPU
    all-reduce            2 (n - 1) / n x 4 bytes x parameters / bus bandwidth: float32 gradients, a ring, nothing of it
                          hidden behind the backward pass, so at most this
    stream                b / frames/s that one worker's stream delivers
    bytes read            of a frame, at most its own and a read-ahead window of the kernel for each place that it is
                          cut from: one (for future prediction the context's and each candidate's) in each lead; no
                          cache counts
    storage               frames of a node (b x its GPUs) x bytes read / bytes/s that a node reads
    step                  max(compute + all-reduce, stream, storage): stream and storage work while a step computes
    validation            every validate_every steps and at the end, all held-out frames shared by n GPUs, at the speed
                          of training: an upper bound, since there is no backward pass in it
    passes                steps x B / (training patients x frames_per_visit)
    bucket (s3, gs)       a node fetches whole shards: each once where its cache holds all, else those of its
                          lanes' patients once a pass; the hours are at least bytes fetched / bytes/s that a node reads
    object store          for every stream of a node, BLOCKS_ALIVE blocks of the Ray stream, a third more at times
    cost                  hours x n x price

What limits is the largest part of the step. A rate that is neither given nor measured is asked for, never guessed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ecgray.errors import EcgrayError
from ecgray.models.base import parameter_count
from ecgray.sampling.ray_data import BLOCK_BYTES, BLOCKS_ALIVE
from ecgray.shards.archive import open_archive
from ecgray.training.config import PretrainConfig
from ecgray.training.loop import network_of

SAMPLE_BYTES, GRADIENT_BYTES = 2, 4


@dataclass(frozen=True, kw_only=True)
class ArchiveSize:
    """How much there is to pretrain on. By hand it is told whole."""

    patients: int
    """Patients."""
    records: int
    """Their records."""
    hours: float
    """Hours of all records together, with any number of leads."""
    fs: float
    """Sampling rate in Hz."""
    leads: int
    """Leads of a record."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), self.patients if field.name == "records" else 0
            if not (0 < value < 1e12 and value >= least):
                rule = f"at least the {least} patients" if least else "a positive number"
                raise EcgrayError(f"archive.{field.name} must be {rule}, got {value}; give another.")

    @property
    def samples(self) -> int:
        """Of all records, per lead."""
        return round(self.hours * 3600 * self.fs)


ICENTIA11K = ArchiveSize(patients=11_000, records=541_794, hours=541_794 * 1_048_577 / 250 / 3600, fs=250.0, leads=1)


def archive_size(shards: Sequence[str]) -> ArchiveSize:
    """Of shard sets, folders or URLs, as one archive; no signal is read. Raises EcgrayError as ``open_archive``
    does."""
    archive = open_archive(shards)
    return ArchiveSize(
        patients=len(archive.patient_names),
        records=len(archive),
        hours=int(archive.samples.sum()) / archive.fs / 3600,
        fs=archive.fs,
        leads=len(archive.leads),
    )


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured or is known; None where nothing was given."""

    gpu_frames_per_s: float | None = None
    """Frames/s that one GPU trains (frames_per_s in metrics.jsonl of a run of this recipe on one)."""
    stream_frames_per_s: float | None = None
    """Frames/s that one worker's stream delivers (default: what --bench holds)."""
    all_reduce_gb_per_s: float | None = None
    """GB/s of an all-reduce between the nodes (ecgray doctor there)."""
    storage_mb_per_s: float | None = None
    """MB/s that one node reads (ecgray doctor --storage)."""
    price_per_gpu_hour: float | None = None
    """Price of a GPU for an hour, in any currency, as the cost then is."""


ASK = {
    "gpu_frames_per_s": "frames_per_s in metrics.jsonl of a run of this recipe on one such GPU",
    "stream_frames_per_s": "or --bench with the benchmarks/results/stream.json that make bench writes in ecgray's "
    "repository",
    "all_reduce_gb_per_s": "ecgray doctor, between such nodes",
    "storage_mb_per_s": "ecgray doctor --storage, what one node reads",
    "price_per_gpu_hour": "the price list",
}
"""Where each rate comes from."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the run takes. Seconds are per step; bytes are of a node unless they say otherwise."""

    steps: int
    passes: float
    frames: int
    shards: int
    archive_bytes: int
    parameters: int
    compute_s: float
    all_reduce_s: float
    stream_s: float
    storage_s: float
    step_s: float
    validation_s: float
    hours: float
    frames_per_s: float
    read_bytes_per_s: float
    fetched_once_bytes_per_s: float
    fetched_each_pass_bytes_per_s: float
    bucket_hours: float
    """At least, with caches that hold all."""
    object_store_bytes: int
    cost: float
    limit: str

    @property
    def all_reduce_share(self) -> float:
        return self.all_reduce_s / self.step_s


def needs_of(
    config: PretrainConfig,
    rates: Rates,
    archive: ArchiveSize = ICENTIA11K,
    *,
    gpus: int,
    gpus_per_node: int,
    shard_mb: float = 128.0,
    read_ahead_kb: float = 128.0,
) -> Needs:
    """The arithmetic of this module. Raises EcgrayError for a cluster that the run cannot use and for lacking rates."""
    sampling, training, task = config.sampling, config.training, config.task
    held_out = int(sampling.val_fraction * archive.patients + 0.5)
    patients = archive.patients - held_out
    _refuse_shapes(config, gpus, gpus_per_node)
    if not 0 < held_out < archive.patients:
        raise EcgrayError(
            f"The split must leave patients on both sides, got {archive.patients} patients and val_fraction "
            f"{sampling.val_fraction:g}, which holds out {held_out}; change sampling.val_fraction or the archive."
        )
    _demand(rates, gpus)
    compute_rate, stream_rate = rates.gpu_frames_per_s or 0.0, rates.stream_frames_per_s or 0.0
    steps = training.steps or max(1, patients * sampling.frames_per_patient // training.batch_size)
    archive_bytes = archive.samples * archive.leads * SAMPLE_BYTES
    with torch.device("meta"):
        parameters = parameter_count(network_of(config, archive.leads))
    frames = training.batch_size // sampling.lanes * math.ceil(sampling.lanes / gpus)
    of_node = frames * min(gpus_per_node, gpus)
    compute_s = frames / compute_rate
    all_reduce_s = 0.0
    if gpus > 1:
        all_reduce_s = 2 * (gpus - 1) / gpus * GRADIENT_BYTES * parameters / ((rates.all_reduce_gb_per_s or 0.0) * 1e9)
    stream_s = frames / stream_rate
    frame_bytes = archive.leads * SAMPLE_BYTES * (task.span(sampling.frame_size) + task.negatives * sampling.frame_size)
    places = archive.leads * (2 + task.negatives if task.negatives else 1)
    read_bytes = frame_bytes + places * read_ahead_kb * 1024
    storage_s = of_node * read_bytes / ((rates.storage_mb_per_s or 0.0) * 1e6)
    parts = {
        "the GPUs": compute_s,
        "the all-reduce": all_reduce_s,
        "the stream": stream_s,
        "the storage": storage_s,
    }
    step_s = max(compute_s + all_reduce_s, stream_s, storage_s)
    working = {name: parts[name] for name in ("the GPUs", "the all-reduce")}
    limit = max(working if step_s == compute_s + all_reduce_s else parts, key=lambda name: parts[name])
    validations = math.ceil(steps / training.validate_every)
    validation_s = validations * held_out * sampling.val_frames_per_patient / gpus / compute_rate
    seconds = steps * step_s + validation_s
    passes = steps * training.batch_size / (patients * sampling.frames_per_visit)
    block_steps = max(1, BLOCK_BYTES // (frames * frame_bytes))
    block_bytes = block_steps * frames * frame_bytes
    nodes = math.ceil(gpus / gpus_per_node)
    return Needs(
        steps=steps,
        passes=passes,
        frames=steps * training.batch_size,
        shards=min(archive.records, math.ceil(archive_bytes / (shard_mb * 1e6))),
        archive_bytes=archive_bytes,
        parameters=parameters,
        compute_s=compute_s,
        all_reduce_s=all_reduce_s,
        stream_s=stream_s,
        storage_s=storage_s,
        step_s=step_s,
        validation_s=validation_s,
        hours=seconds / 3600,
        frames_per_s=training.batch_size / step_s,
        read_bytes_per_s=of_node * read_bytes / step_s,
        fetched_once_bytes_per_s=archive_bytes / seconds,
        fetched_each_pass_bytes_per_s=archive_bytes * max(passes, 1.0) / nodes / seconds,
        bucket_hours=max(seconds, archive_bytes / ((rates.storage_mb_per_s or 0.0) * 1e6)) / 3600,
        object_store_bytes=min(gpus_per_node, gpus) * BLOCKS_ALIVE * block_bytes,
        cost=seconds / 3600 * gpus * (rates.price_per_gpu_hour or 0.0),
        limit=limit,
    )


def _refuse_shapes(config: PretrainConfig, gpus: int, gpus_per_node: int) -> None:
    lanes, batch = config.sampling.lanes, config.training.batch_size
    if gpus < 1 or gpus_per_node < 1:
        raise EcgrayError(f"A plan needs at least one GPU, got {gpus} and {gpus_per_node} per node; give others.")
    if gpus > lanes:
        raise EcgrayError(
            f"A run must have at most as many workers as lanes, got {gpus} GPUs and sampling.lanes={lanes}; give "
            f"--sampling.lanes {gpus} and a --training.batch-size that is a multiple of it, or fewer GPUs."
        )
    if batch % lanes:
        raise EcgrayError(
            f"training.batch_size must be a multiple of sampling.lanes, got {batch} and {lanes}; change one of them."
        )


def _demand(rates: Rates, gpus: int) -> None:
    given = {name: value for name, value in vars(rates).items() if name != "all_reduce_gb_per_s" or gpus > 1}
    lacking = [f"--{name.replace('_', '-')} ({ASK[name]})" for name, value in given.items() if value is None]
    if lacking:
        raise EcgrayError(f"A plan needs rates that were measured, got none for {'; '.join(lacking)}; give them.")
    for name, value in given.items():
        least = 0 if name == "price_per_gpu_hour" else 1e-9
        if not least <= (value or 0.0) < 1e15:
            raise EcgrayError(f"--{name.replace('_', '-')} must be a positive number, got {value}; measure it again.")


def measured_stream(bench: Path, config: PretrainConfig, leads: int = 1) -> float:
    """Frames per second of the Ray stream in a Train worker, for frames of the recipe's size, as ``make bench`` has it.

    Raises EcgrayError where the file is none of it, or has not measured such frames.
    """
    task, size = config.task, config.sampling.frame_size
    slots = (task.span(size) // size + task.negatives) if task.negatives else 0
    frame = str(size) if leads == 1 else f"{leads} x {size}"
    setting = f"future {slots} x {frame}" if slots else frame
    try:
        rows: list[dict[str, Any]] = json.loads(bench.read_text(encoding="utf-8"))["rows"]
        place = {"place": "worker", "setting": setting, "method": "ray"}
        found = [float(row["sustained"]["median"]) for row in rows if place.items() <= row.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EcgrayError(
            f"{bench} must be what make bench wrote, got: {error}; run it again, or give --stream-frames-per-s."
        ) from error
    if not found:
        raise EcgrayError(
            f"{bench} must hold the Ray stream of '{setting}' in a Train worker, got none; run make bench with that "
            "setting, or give --stream-frames-per-s."
        )
    return found[0]
