"""The same loop on many workers: Ray Train starts them, joins them into a process group and restarts them.

Checkpoints are ours, in the run folder, which all workers must see, or at the run's URL. Ray Train keeps nothing that
is needed: its own folder is made anew for every start, so that it can never resume by accident, and removed at the end.
What driver and workers tell each other goes through the cluster.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from ecgray.config import from_dict, to_dict
from ecgray.errors import EcgrayError
from ecgray.sampling.plan import make_plan
from ecgray.shards.archive import open_archive
from ecgray.shards.storage import filesystem_of, is_remote, join, remove
from ecgray.shards.working import working_folder
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed, best_device
from ecgray.training.loop import Training
from ecgray.training.messages import ENDED, STOP, Messages
from ecgray.training.run import RunFolder, locked
from ecgray.training.stopping import RunEnded, RunStopped, StopRequest, stop_on_signals
from ecgray.training.watching import progress_bar, show_metrics

MAX_FAILURES = 5
"""How often lost workers are started again."""
HANDOVER_S = 120.0
"""How long the first worker waits for one of an earlier start that may still be writing."""
LEAST_DATA_CPUS = 0.25
"""What the stream of each worker needs of the cluster beside the worker; with less, Ray Data would wait for ever."""

log = logging.getLogger(__name__)


def train_on_ray(
    config: PretrainConfig,
    run: RunFolder,
    workers: int,
    backend: Literal["local", "ray"],
    *,
    show_progress: bool = False,
) -> None:
    """Train ``config`` into ``run`` with ``workers`` workers of the cluster that this process is connected to, of the
    one that RAY_ADDRESS names, or of a new one on this machine.

    Raises EcgrayError when the cluster is too small or a worker met what the user can mend, RunStopped after a signal.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with _connected():
        resources = _worker_resources(ray.cluster_resources(), workers, backend)
        start = uuid.uuid4().hex[:12]
        messages = Messages(start)
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "config": to_dict(config),
                "run": str(run.place),
                "backend": backend,
                "start": start,
            },
            torch_config=TorchConfig(backend="nccl" if "GPU" in resources else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name="train",
                **_storage(run, start),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
            ),
        )
        try:
            failure = _fit(trainer, run, config, messages, show_progress)
            said = messages.get(ENDED)
        finally:
            messages.forget()
            shutil.rmtree(run.path / "ray", ignore_errors=True)
    if run.url is not None and said is None and failure is None:
        remove(join(run.url, "ray"))
    if said is not None:
        ended = json.loads(said)
        raise (RunStopped if ended["stopped"] else EcgrayError)(ended["message"])
    if failure is not None:
        raise failure


def _storage(run: RunFolder, start: str) -> dict[str, Any]:
    """Where Ray Train keeps its notes on one start, as its RunConfig wants it."""
    if run.url is None:
        (run.path / "ray" / start).mkdir(parents=True)
        return {"storage_path": str(run.path / "ray" / start)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = filesystem_of(join(run.url, "ray", start))
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))}


def _fit(
    trainer: Any, run: RunFolder, config: PretrainConfig, messages: Messages, show_progress: bool
) -> Exception | None:
    """Run the trainer beside this thread, which takes signals and shows what metrics.jsonl says."""
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # handed to the caller's thread
            failures.append(error)

    stop = StopRequest()

    def tell_workers() -> None:
        messages.put(STOP, str(stop.signal_name))

    thread = threading.Thread(target=fit, name="ecgray-fit", daemon=True)
    with stop_on_signals(stop, then=tell_workers):
        thread.start()
        bar = progress_bar(0, config.training.steps) if show_progress else None
        seen = _size(run.metrics)
        while thread.is_alive():
            thread.join(1.0)
            if bar is not None and _size(run.metrics) != seen:
                for line in run.read_metrics(min(seen, _size(run.metrics))):
                    show_metrics(bar, line["kind"], line["step"], line)
                    bar.update(max(0, line["step"] - bar.n))
                seen = _size(run.metrics)
        if bar is not None:
            bar.close()
    return failures[0] if failures else None


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _worker(settings: dict[str, Any]) -> None:
    """What runs on each worker."""
    import ray.train

    # Ray Train logs every report through the root logger, Ray Data its plans through its own.
    for name, level in ((None, logging.WARNING), ("ray.data", logging.WARNING), ("ecgray", logging.INFO)):
        logging.getLogger(name).setLevel(level)
    context = ray.train.get_context()
    rank, size, messages = context.get_world_rank(), context.get_world_size(), Messages(settings["start"])
    if messages.get(ENDED) is not None:  # a worker of this start has met what a restart does not mend
        return
    config = from_dict(PretrainConfig, settings["config"])
    place = settings["run"]
    run = RunFolder(working_folder(place), place) if is_remote(place) else RunFolder(Path(place))
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    # Ray gives its workers one thread each; a step takes half the time with the machine's cores shared out.
    torch.set_num_threads(config.training.threads or max(1, cores // context.get_local_world_size()))
    device = best_device()
    try:
        # A worker of a driver that was killed lives on for seconds: two must never write.
        with locked(run.path / "writer.lock", HANDOVER_S) if rank == 0 else contextlib.nullcontext():
            archive = open_archive(config.data.shards)
            plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
            Training(
                config,
                run,
                archive,
                plan,
                Distributed(rank, size, device),
                backend=settings["backend"],
                stop=StopRequest((lambda: messages.get(STOP)) if rank == 0 else None),
                report=ray.train.report,
            ).go()
        if run.url is not None and not run.config.exists():  # the driver, elsewhere, cannot clear up here
            shutil.rmtree(run.path, ignore_errors=True)
    except EcgrayError as error:
        if rank == 0 or not isinstance(error, RunEnded):
            messages.put(ENDED, json.dumps({"message": str(error), "stopped": isinstance(error, RunStopped)}))
        if not isinstance(error, RunEnded):
            raise  # the other workers are waiting for this one


def _worker_resources(cluster: dict[str, float], workers: int, backend: str) -> dict[str, float]:
    """What each worker reserves: a GPU where the cluster has any, and its share of the CPUs that data may not need.

    Raises EcgrayError when the cluster is too small.
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    for_data = max(min(cpus / 2, workers), workers * LEAST_DATA_CPUS) if backend == "ray" else 0.0
    share = (cpus - for_data) / workers
    if share < 0.1:
        raise EcgrayError(
            f"A run with {workers} workers needs CPUs for them and {for_data:g} for their data, got a cluster with "
            f"{cpus:g}; take fewer workers, more CPUs, or the local stream."
        )
    if 0 < gpus < workers:
        raise EcgrayError(
            f"Each worker needs a GPU of its own where there are any, got {workers} workers and {gpus:g} GPUs; "
            "take fewer workers."
        )
    resources = {"CPU": float(int(share)) if share >= 1 else int(share * 100) / 100}
    return resources | {"GPU": 1.0} if gpus else resources


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """A connection to a cluster: the one there is, else one made (and ended) here."""
    import ray

    if ray.is_initialized():
        yield
        return
    if "RAY_ADDRESS" in os.environ:
        ray.init(logging_level=logging.WARNING)
    else:
        ray.init(dashboard_host="127.0.0.1", logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()
