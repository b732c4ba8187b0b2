"""Seeds side by side on a Ray cluster, over one copy of the signals per node."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from ecgray.errors import EcgrayError
from ecgray.finetuning.seed_run import SeedJob, Signals

CANCEL_S = 10.0
"""How long seeds that are told to end may take."""

Work = Callable[[SeedJob, Signals], None]


def run_on_ray(
    work: Work,
    jobs: Sequence[SeedJob],
    signals: Signals,
    workers: int,
    done: Callable[[SeedJob], None],
    cluster_share: float = 1.0,
) -> None:
    """``work(job, signals)`` for every job, ``workers`` of them at a time, each with its share of the CPUs and GPUs
    that ``cluster_share`` of the cluster has.

    The signals go into the object store once and are mapped, not copied, by the workers of a node. A worker that dies
    is started again, up to three times, and goes on from its seed's last epoch. ``done(job)`` after each.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    running: dict[ray.ObjectRef, SeedJob] = {}
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        resources = ray.cluster_resources()
        cpus = share(resources.get("CPU", 1) * cluster_share, workers)
        # What the actors of trials reserve for themselves is a hundredth of a CPU each, and no part of a GPU.
        gpus = share(round(resources.get("GPU", 0) * cluster_share, 1), workers)
        # "DEFAULT": anywhere in the cluster, not within what the trial that asks for it has reserved for itself.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3, scheduling_strategy="DEFAULT")(work)
        stored = ray.put(signals)
        waiting = list(jobs)[::-1]
        while waiting or running:
            while waiting and len(running) < workers:
                job = replace(waiting.pop(), threads=max(1, int(cpus)))
                running[task.remote(job, stored)] = job
            ready, _ = ray.wait(list(running))
            for reference in ready:
                ray.get(reference)
                done(running.pop(reference))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, (EcgrayError, OSError)) else error) from None
    finally:
        for reference in running:  # on a cluster that stays, they would write on beside those of a resumed run
            ray.cancel(reference, force=True)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=CANCEL_S)
        if started:
            ray.shutdown()


def share(total: float, workers: int) -> float:
    """What each worker gets of ``total`` CPUs or GPUs: whole ones, or a fraction that fits evenly into one."""
    if total <= 0:
        return 0.0
    return float(total // workers) if total >= workers else 1 / math.ceil(workers / total)
