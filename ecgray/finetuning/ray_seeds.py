"""Seeds side by side on a Ray cluster, over one copy of the signals per node."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ecgray.cluster import connected
from ecgray.errors import EcgrayError
from ecgray.finetuning.seed_run import SeedJob, Signals
from ecgray.sampling.ray_nodes import Node, free_nodes
from ecgray.training.room import LEAST_CPUS, ask_for, may_grow, places, share, wait_for, whole

CANCEL_S = 10.0
"""How long seeds that are told to end may take."""
MAX_RETRIES = 3
"""How often a seed whose worker died is started again."""
SHOW_EVERY_S = 1.0
"""How often it is looked how far they are."""
LOOK_EVERY_S = 60.0
"""How often it is looked whether there is a node for the seeds that wait."""

log = logging.getLogger(__name__)

Work = Callable[[SeedJob, Signals], None]


def run_on_ray(
    work: Work,
    jobs: Sequence[SeedJob],
    signals: Signals,
    workers: int,
    look: Callable[[], None],
    most_cpus: float = math.inf,
) -> None:
    """``work(job, signals)`` for every job, ``workers`` of them at a time, each with its share of a node's CPUs (at
    most ``most_cpus``) and GPUs.

    The signals go into the object store once and are mapped, not copied, by the workers of a node. A worker that dies
    is started again, up to ``MAX_RETRIES`` times, and goes on from its seed's last epoch. ``look()`` again and again.

    Raises EcgrayError when no node has room for a worker, one met what the user can mend, or one was lost too often.
    """
    import ray

    running: dict[ray.ObjectRef, SeedJob] = {}
    told = time.monotonic()
    with connected(quiet=True):
        try:
            cpus, gpus = _room(workers, most_cpus)
            # "DEFAULT": anywhere in the cluster, not within what the trial that asks for it has reserved for itself.
            anywhere = ray.remote(scheduling_strategy="DEFAULT", max_retries=MAX_RETRIES, num_cpus=cpus, num_gpus=gpus)
            task = anywhere(work)
            stored = ray.put(signals)
            waiting = list(jobs)[::-1]
            while waiting or running:
                while waiting and len(running) < workers:
                    job = replace(waiting.pop(), threads=max(1, int(cpus)))
                    running[task.remote(job, stored)] = job
                ready, _ = ray.wait(list(running), timeout=SHOW_EVERY_S)
                if ready:
                    told = time.monotonic()
                elif time.monotonic() - told >= LOOK_EVERY_S:
                    told = time.monotonic()
                    if not places(free_nodes(), cpus, gpus):
                        log.warning("Waiting for a node with %g CPUs and %g GPUs free.", cpus, gpus)
                for reference in ready:
                    ray.get(reference)
                    running.pop(reference)
                look()
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, (EcgrayError, OSError)) else error) from None
        except ray.exceptions.RayError as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EcgrayError(
                f"A seed's worker must stay alive, but one was lost {MAX_RETRIES + 1} times, the last time by: "
                f"{said[:400]}; mend that, then --resume."
            ) from error
        finally:
            for reference in running:  # on a cluster that stays, they would write on beside those of a resumed run
                ray.cancel(reference, force=True)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=CANCEL_S)


def _room(workers: int, most_cpus: float) -> tuple[float, float]:
    """What each worker gets of the cluster, waited for where an autoscaler starts nodes: (CPUs, GPUs)."""

    def refusal(held: str, gpu: bool) -> str:
        return (
            f"{workers} seeds side by side need some CPU of a node each, got a cluster with {held}; take fewer workers "
            "or add nodes."
        )

    try:
        return wait_for(lambda nodes: seed_share(nodes, workers, most_cpus, may_grow()), (1, 1), None, refusal)
    finally:
        ask_for([])  # the seeds that wait ask by themselves


def seed_share(
    nodes: Sequence[Node], workers: int, most_cpus: float = math.inf, growing: bool = False
) -> tuple[float, float] | None:
    """(CPUs, GPUs) of each of ``workers``, so that all fit on ``nodes`` at once: a GPU at most, or a part of one.

    On a cluster that is ``growing`` as many are counted as there are GPUs (without GPUs, nodes): the others wait for
    more nodes like these. None where they do not fit.
    """
    cards = places(nodes, LEAST_CPUS, 1.0)
    if growing:
        workers = max(1, min(workers, cards or sum(node.get("CPU", 0.0) > 0 for node in nodes)))
    # Ray counts in ten-thousandths.
    gpus = min(1.0, int(1e4 / math.ceil(workers / cards)) / 1e4) if cards else 0.0
    cpus = whole(min(share(nodes, workers, gpus), most_cpus))
    return (cpus, gpus) if cpus else None
