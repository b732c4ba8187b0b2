"""Pretraining: from a config to a run folder."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from ecgray.errors import EcgrayError, counted, unknown
from ecgray.processor import cores, has_fast_bf16
from ecgray.progress import Progress, announce, duration
from ecgray.sampling.plan import Plan, make_plan
from ecgray.sampling.stream import BACKENDS
from ecgray.shards.amplitudes import far_off, warning
from ecgray.shards.archive import Archive, open_archive
from ecgray.shards.cache import BOUND, cache_bound
from ecgray.shards.storage import resolve
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed, best_device
from ecgray.training.labels import FRAMES, label_histogram
from ecgray.training.loop import Training, last_step_of, network_of
from ecgray.training.model_folder import check_batch
from ecgray.training.published import newest_step
from ecgray.training.run import open_run
from ecgray.training.stopping import StopRequest, stop_on_signals
from ecgray.training.threads import threads

log = logging.getLogger(__name__)


def pretrain(
    config: PretrainConfig,
    out: Path | str,
    *,
    workers: int | tuple[int, int] = 0,
    resume: bool = False,
    backend: Literal["local", "ray"] | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    show_progress: bool = True,
    most_cpus: float = math.inf,
    patient: bool = False,
) -> Path | str:
    """Train the network that ``config`` describes and return its run folder ``out``, a path or a URL.

    ``workers`` 0 trains in this process and imports no Ray, else as many workers of Ray Train do, sharing the global
    batch; (fewest, most) lets the run go on with fewer when machines are lost and with more when some come.
    ``backend``: what delivers the frames, by default "ray" with workers and "local" without. ``device``: what this
    process or each worker of Ray Train computes on, by default a GPU where there is any now; "cuda" lets an autoscaler
    start machines that have one. ``resume``: go on from the newest checkpoint of ``out`` (a new run where there is
    none). ``most_cpus``: what each worker on Ray may reserve with its stream, for runs side by side. ``patient``: where
    the cluster has too little room now and had enough before, wait for its machines to return.

    Raises EcgrayError for what cannot be trained (before anything is written), RunStopped after SIGINT or SIGTERM.
    """
    fewest, most = workers if isinstance(workers, tuple) else (workers, workers)
    backend = backend or ("ray" if most else "local")
    if backend not in BACKENDS:
        raise unknown("stream backend", backend, BACKENDS)
    shards = tuple(resolve(path) for path in config.data.shards)
    config = replace(config, data=replace(config.data, shards=shards))
    archive = open_archive(shards, verify=config.data.verify)
    plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
    _check_shares(config, archive, fewest, most)
    _check_labels(config, archive, plan)
    if archive.remote_bytes > cache_bound():
        log.warning(
            "The shard sets at URLs hold %.3g GB and a node's cache %.3g GB: what is thrown away is fetched again in "
            "every pass. Give it more in %s where there is the space.",
            archive.remote_bytes / 1e9,
            cache_bound() / 1e9,
            BOUND,
        )
    if found := far_off(archive.lead_sd_mv(), archive.leads, lambda number: str(archive.record_id[number])):
        log.warning("%s", warning(found, len(archive), " ".join(shards)))
    hashes = [manifest.hash for manifest in archive.manifests]
    steps = last_step_of(config, plan)
    with (
        open_run(out, config, hashes, resume=resume, workers=workers, steps=steps, newest=newest_step) as run,
        Progress("pretrain", steps, "step", show=show_progress) as progress,
    ):
        if most:
            from ecgray.training.ray_train import OnCluster, train_on_ray

            where = OnCluster((fewest, most), backend, device, most_cpus, patient)
            on = f"{counted(most, 'worker')} of Ray" if fewest == most else f"{fewest} to {most} workers of Ray"
            announce(show_progress, *_before(config, archive, plan, steps, on, run.place))
            train_on_ray(config, run, where, progress=progress if show_progress else None)
        else:
            stop, count = StopRequest(), config.training.threads or cores()
            with threads(count), stop_on_signals(stop):
                alone = Distributed(device=_device(device))
                on = f"{alone.device}, {counted(count, 'thread')}" if alone.device.type == "cpu" else f"{alone.device}"
                announce(show_progress, *_before(config, archive, plan, steps, on, run.place))
                if alone.device.type == "cpu":
                    progress.advise(lambda left, rate: _shorter(config, left, rate))
                shown = progress if show_progress else None
                Training(config, run, archive, plan, alone, backend=backend, stop=stop, progress=shown).go()
        progress.close()
        announce(
            show_progress, f"done: {steps:,} steps; accuracy on validation: {progress.fields.get('best', 'none yet')}"
        )
        return run.place


def _before(
    config: PretrainConfig, archive: Archive, plan: Plan, steps: int, on: str, place: Path | str
) -> tuple[str, ...]:
    """What is said before the first step: on what, of what, where."""
    patients, held_out = len(plan.train_patients) + len(plan.val_patients), len(plan.val_patients)
    leads, task = len(archive.leads), config.task
    parameters = sum(parameter.numel() for parameter in network_of(config, leads).parameters())
    hours = f"{float((archive.samples / archive.fs).sum()) / 3600:,.3g}"
    return (
        f"pretrain {config.recipe}: {counted(len(archive), 'record')} of {counted(patients, 'patient')}, {hours} h at "
        f"{archive.fs:g} Hz; {counted(held_out, 'patient')} to validate",
        f"task {task.name}{f' ({len(task.classes)} classes)' if task.classes else ''}, frames of "
        f"{config.sampling.frame_size:,} samples, {counted(leads, 'lead')}; "
        f"{config.model.name} of {parameters:,} parameters",
        f"{steps:,} steps of {config.training.batch_size} frames on {on}; writes to {place}",
    )


LONG_S = 600.0
"""A run on a CPU that takes longer is told what makes it shorter."""


def _shorter(config: PretrainConfig, left_s: float, steps_per_s: float) -> str | None:
    """How long it takes, and the words that make it shorter; None for a short one."""
    if left_s < LONG_S:
        return None
    width, steps = getattr(config.model, "width", 0), config.training.steps
    words = ["--model.width 16"] if width > 16 else []
    words += ["--training.steps 2000"] if steps is None or steps > 2000 else []
    if config.training.precision == "fp32" and has_fast_bf16():
        words.append("--training.precision bf16")
    return f"about {duration(left_s)} on this CPU at {steps_per_s * config.training.batch_size:,.3g} frames/s" + (
        f"; shorter: {' or '.join(words)}" if words else ""
    )


def _device(asked: Literal["cpu", "cuda"] | None) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise EcgrayError("A run on cuda must have a GPU on this machine, got none; leave the device out.")
    return torch.device("cpu") if asked == "cpu" else best_device()


def _check_labels(config: PretrainConfig, archive: Archive, plan: Plan) -> None:
    """Raises EcgrayError when the data does not answer what the task asks of any frame."""
    found = label_histogram(archive, plan, config.task).named
    classes = {name for name, count in found.items() if count and name != "dropped"}
    if not classes - {getattr(config.task, "no_answer", None)}:
        beats = sum(sum(manifest.beats.values()) for manifest in archive.manifests)
        seconds = sum(sum(manifest.rhythm_seconds.values()) for manifest in archive.manifests)
        raise EcgrayError(
            f"The frames must hold what the task {config.task.name} learns from, got no"
            f" {config.task.unanswered(beats=beats, rhythm_seconds=seconds)}."
        )
    if len(classes) == 1:
        log.warning("The first %d frames are all of one class (%s): there is nothing to tell apart.", FRAMES, *classes)


def _check_shares(config: PretrainConfig, archive: Archive, fewest: int, workers: int) -> None:
    lanes, training, frame_size = config.sampling.lanes, config.training, config.sampling.frame_size
    if workers < 0 or workers > lanes:
        raise EcgrayError(
            f"A run must have between 0 and as many workers as lanes, got {workers} workers and sampling.lanes={lanes}"
            "; raise sampling.lanes or take fewer workers."
        )
    if fewest > workers or (fewest < 1 and workers):
        raise EcgrayError(
            "--workers FEWEST:MOST must have 1 or more as the fewest and no more than the most, got "
            f"{fewest}:{workers}; give 1:4, for example."
        )
    smallest = training.batch_size // lanes * (lanes // max(workers, 1))
    if training.accumulation > smallest:
        raise EcgrayError(
            f"Every worker must hold at least training.accumulation={training.accumulation} frames of a step, got "
            f"{smallest}; raise training.batch_size or lower training.accumulation."
        )
    samples = config.task.span(frame_size) + config.task.negatives * frame_size
    leads = len(archive.leads)
    check_batch(lambda: network_of(config, leads), smallest // training.accumulation, leads, samples)
