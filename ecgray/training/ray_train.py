"""The same loop on many workers: Ray Train starts them, joins them into a process group and watches them.

A run is a row of starts. Each takes as many workers as the cluster holds (between the fewest and the most asked for),
goes on from the newest checkpoint and ends with the run, with lost workers, or with a checkpoint because a machine is
about to go or more workers have become possible; then comes the next one. Which frames a step takes is independent of
the number of workers, so that none is lost or seen twice.

Checkpoints are ours, in the run folder, which all workers must see, or at the run's URL. Ray Train keeps nothing that
is needed: its own folder is made anew for every start, so that it can never resume by accident, and removed at the end.
What driver and workers tell each other goes through the cluster.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ecgray.cluster import connected
from ecgray.config import to_dict
from ecgray.errors import EcgrayError
from ecgray.progress import Progress
from ecgray.sampling.ray_nodes import Node, free_nodes, placement_groups
from ecgray.shards.storage import filesystem_of, join, remove
from ecgray.training.checkpoint import step_folder
from ecgray.training.config import PretrainConfig
from ecgray.training.messages import ENDED, STOP, Hearing, Messages
from ecgray.training.published import newest_step
from ecgray.training.room import Room, ask_for, await_release, groups_of_others, room_for, to_ask_for, wait_for
from ecgray.training.run import RunFolder
from ecgray.training.stopping import RunStopped, StopRequest, stop_on_signals

MAX_FAILURES = 5
"""How often workers may be lost without a new checkpoint in between."""
NO_RESTARTS: Any = {"max_failures": 0, "controller_failure_limit": 0, "max_preemption_failures": 0}
"""Ray Train's own restarts are off: it would take as many workers as before, wherever they fit."""
LOOK_EVERY_S = 5.0
"""How often a run with fewer workers than it may have looks whether the cluster holds more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnCluster:
    """Where and on how much of it a run is trained: (fewest, most) workers, what delivers the frames, what each worker
    computes on (None: a GPU where there are any now), the most CPUs that each may reserve, and whether machines that
    are away are waited for from the first start on."""

    workers: tuple[int, int]
    backend: Literal["local", "ray"]
    device: Literal["cpu", "cuda"] | None = None
    most_cpus: float = math.inf
    patient: bool = False

    def room(self, nodes: Sequence[Node]) -> Room | None:
        return room_for(nodes, self.workers, self.backend, self.device, self.most_cpus)


def train_on_ray(config: PretrainConfig, run: RunFolder, where: OnCluster, *, progress: Progress | None = None) -> None:
    """Train ``config`` into ``run`` on the cluster that this process is connected to, the one that RAY_ADDRESS names,
    or a new one on this machine.

    Raises EcgrayError when the cluster is too small, a worker met what the user can mend or workers are lost again and
    again, RunStopped after a signal.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    stop = StopRequest()

    with connected(), stop_on_signals(stop):
        try:
            _starts(config, run, where, stop, progress)
        finally:
            ask_for([])
            shutil.rmtree(run.path / "ray", ignore_errors=True)
    if run.url is not None:
        remove(join(run.url, "ray"))


def _starts(
    config: PretrainConfig, run: RunFolder, where: OnCluster, stop: StopRequest, progress: Progress | None
) -> None:
    """One start after another until the run ends."""
    failures, reached = 0, _newest(run)
    patient = where.patient
    while True:
        room = _wait_for_room(run, where, stop, patient)
        ended, failure = _start(config, run, where, room, stop, progress)
        if ended is not None and not ended["stopped"]:
            raise EcgrayError(ended["message"])
        if stop.signal_name is not None and (ended is not None or failure is not None):
            raise RunStopped(ended["message"] if ended is not None else _stopped(run, stop))
        if ended is None and failure is None:
            return
        patient = True
        if failure is None:
            continue
        reached, before = _newest(run), reached
        failures = failures + 1 if reached == before else 1
        said = (str(failure).strip().splitlines() or [type(failure).__name__])[-1]
        if failures > MAX_FAILURES:
            raise EcgrayError(
                f"The workers of {run.place} must come from one checkpoint to the next, got them lost {failures} times "
                f"in a row, the last time by: {said[:400]}; the last good checkpoint is {reached or 'none yet'}. "
                "Mend that, then --resume."
            ) from failure
        log.warning("Workers were lost (%s); starting again from %s.", said, reached or "0")


def _start(
    config: PretrainConfig,
    run: RunFolder,
    where: OnCluster,
    room: Room,
    stop: StopRequest,
    progress: Progress | None,
) -> tuple[dict[str, Any] | None, Exception | None]:
    """Workers from the newest checkpoint on, once: (how they say that they ended, unless with the run; what failed)."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from ecgray.training.ray_worker import NoticedTorchConfig, work

    start = uuid.uuid4().hex[:12]
    messages = Messages(start)
    gpu = "GPU" in room.resources
    settings = {"config": to_dict(config), "run": str(run.place), "lock": run.lock}
    settings |= {"backend": where.backend, "start": start, "shown": progress is not None}
    trainer = TorchTrainer(
        work,
        train_loop_config=settings,
        torch_config=NoticedTorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=room.workers,
            use_gpu=gpu,
            resources_per_worker=room.resources,
            # GPUs of one machine are joined by faster wires; CPUs are shared with the stream, so each node's by few.
            placement_strategy="PACK" if gpu else "SPREAD",
        ),
        run_config=RunConfig(
            name="train",
            **_storage(run, start),
            failure_config=FailureConfig(**NO_RESTARTS),
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
        ),
    )
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # handed to the caller's thread
            failures.append(error)

    before = set(placement_groups())
    larger, next_look, told = 0, time.monotonic() + LOOK_EVERY_S, False
    hearing = None if progress is None else Hearing(messages, progress)
    thread = threading.Thread(target=fit, name="ecgray-fit", daemon=True)
    began = time.monotonic()
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        if stop.signal_name is not None and not told:
            messages.put(STOP, stop.signal_name)
            told = True
        if hearing is not None:
            hearing.look()
        if room.workers < where.workers[1] and time.monotonic() >= next_look and stop.signal_name is None:
            next_look = time.monotonic() + LOOK_EVERY_S
            others = groups_of_others(room, before)
            places = to_ask_for(room.workers + 1, where.workers[1], time.monotonic() - began)
            ask_for([room.resources] * places, others)
            found = where.room(free_nodes(others))
            larger = larger + 1 if found is not None and found.workers > room.workers else 0
            if larger == 2:  # seen twice: a node that has only just come may bring others
                log.info("The cluster holds %d workers now.", found.workers if found else 0)
                messages.put(STOP, "a larger cluster")
    await_release(room, before)
    if hearing is not None:
        hearing.look()
    ended = messages.get(ENDED)
    messages.forget()
    return (None if ended is None else json.loads(ended)), (failures[0] if failures else None)


def _storage(run: RunFolder, start: str) -> dict[str, Any]:
    """Where Ray Train keeps its notes on one start, as its RunConfig wants it."""
    if run.url is None:
        (run.path / "ray" / start).mkdir(parents=True)
        return {"storage_path": str(run.path / "ray" / start)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = filesystem_of(join(run.url, "ray", start))
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))}


def _wait_for_room(run: RunFolder, where: OnCluster, stop: StopRequest, patient: bool) -> Room:
    """Room for a start, waited for where machines may still come: by an autoscaler, or because there were enough before
    (``patient``). Raises EcgrayError when there is none, RunStopped after a signal."""

    def look() -> None:
        if stop.signal_name is not None:
            raise RunStopped(_stopped(run, stop))

    def refusal(held: str, gpu: bool) -> str:
        each = "a GPU and a CPU" if gpu else "CPU for itself and for its data"
        return (
            f"A run with {where.workers[0]} workers needs {each} for each of them, got a cluster with {held}; "
            "take fewer workers, add nodes, or take the local stream."
        )

    return wait_for(where.room, where.workers, where.device, refusal, patient=patient, look=look)


def _newest(run: RunFolder) -> str | None:
    step = newest_step(run)
    return step_folder(run.checkpoints, step).name if step else None


def _stopped(run: RunFolder, stop: StopRequest) -> str:
    return (
        f"The run was stopped by {stop.signal_name} while it had no workers, and {_newest(run) or 'no checkpoint'} is "
        "its newest checkpoint; go on with --resume."
    )
