"""What runs on each worker of a run: the loop, and the notices that end it in good order.

A worker that is told to go (SIGTERM, or Ray drains its node because a spot machine is being taken back) asks all ranks
for a checkpoint at the same step; the driver then starts the run again on what is left.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import ray.train
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.execution.context import get_train_context

from ecgray.config import from_dict
from ecgray.errors import EcgrayError, Passing
from ecgray.processor import cores
from ecgray.sampling.plan import make_plan
from ecgray.shards.archive import open_archive
from ecgray.shards.storage import is_remote
from ecgray.shards.working import working_folder
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed, best_device
from ecgray.training.loop import Training, last_step_of
from ecgray.training.messages import ENDED, STOP, Messages, Told
from ecgray.training.ray_metrics import RayMetrics
from ecgray.training.run import HANDOVER_S, RunFolder, disk_refused, locked
from ecgray.training.stopping import RunEnded, RunStopped, StopRequest
from ecgray.training.threads import threads

_sigterm: list[str] = []
"""Holds the signal's name once this worker has got it."""


def work(settings: dict[str, Any]) -> None:
    """Train until the end of the run, a stop request or a notice.

    ``settings``: config (as a dict), where the run is (a folder or a URL) and the number of its lock there, stream
    backend, and the name of this start, under which it is told to stop, and says how the run ended where starting
    workers again would not mend it.
    """
    # Ray Train logs every report through the root logger, Ray Data its plans through its own.
    for name, level in ((None, logging.WARNING), ("ray.data", logging.WARNING), ("ecgray", logging.INFO)):
        logging.getLogger(name).setLevel(level)
    context = ray.train.get_context()
    rank, size, messages = context.get_world_rank(), context.get_world_size(), Messages(settings["start"])
    config = from_dict(PretrainConfig, settings["config"])
    place = settings["run"]
    run = RunFolder(working_folder(place), place, settings["lock"]) if is_remote(place) else RunFolder(Path(place))
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    # Ray gives its workers one thread each; a step takes half the time with the machine's cores shared out.
    share = config.training.threads or max(1, cores() // context.get_local_world_size())
    device = best_device()

    def asked() -> str | None:
        return (messages.get(STOP) if rank == 0 else None) or _notice()

    try:
        # A worker of a driver that was killed lives on for seconds: two must never write.
        lock = locked(run.path / "writer.lock", HANDOVER_S) if rank == 0 else contextlib.nullcontext()
        with lock, threads(share):
            archive = open_archive(config.data.shards)
            plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
            progress = Told(messages, last_step_of(config, plan)) if rank == 0 and settings["shown"] else None
            try:
                Training(
                    config,
                    run,
                    archive,
                    plan,
                    Distributed(rank, size, device),
                    backend=settings["backend"],
                    stop=StopRequest(asked),
                    report=ray.train.report,
                    publish=RayMetrics(run.path, rank).publish,
                    progress=progress,
                ).go()
            finally:
                if progress is not None:
                    progress.draw()  # the last word
        if run.url is not None and not run.config.exists():  # the driver, elsewhere, cannot clear up here
            shutil.rmtree(run.path, ignore_errors=True)
    except (ConnectionError, TimeoutError, Passing):
        raise  # to another process, not to a disk, or what is over soon: the workers are started again
    except (EcgrayError, OSError) as error:
        ended = error if isinstance(error, EcgrayError) else disk_refused(place, error)
        if rank == 0 or not isinstance(ended, RunEnded):
            messages.put(ENDED, json.dumps({"message": str(ended), "stopped": isinstance(ended, RunStopped)}))
        if not isinstance(ended, RunEnded):
            raise  # the other workers are waiting for this one


def _notice() -> str | None:
    """What told this worker to go, if anything did."""
    if _sigterm:
        return _sigterm[0]
    # Not ray.train.get_preemption_info: that waits for every rank to ask at the same step.
    draining = get_train_context().preemption_context.preemption_info is not None
    return "the draining of a node" if draining else None


def _take_sigterm() -> None:
    """Let the first SIGTERM be a notice; a second one has its usual effect. Runs in the worker's main thread."""
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        _sigterm.append("SIGTERM")
        signal.signal(number, before)

    _sigterm.clear()
    signal.signal(signal.SIGTERM, handle)


class _NoticedTorch(_TorchBackend):
    """Ray Train's process group, on workers that take SIGTERM as a notice."""

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(_take_sigterm)


class NoticedTorchConfig(TorchConfig):
    """A process group on workers that take SIGTERM as a notice."""

    @property
    def backend_cls(self) -> type[_NoticedTorch]:
        return _NoticedTorch
