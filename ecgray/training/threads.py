"""The threads that torch computes with, and what they do while they wait for one another.

OpenMP's threads spin between two parts of a step: nothing starts the next part sooner. Beside another busy process this
ruins a run. A thread that spins uses up its time on the core, lacks it for its part, and all others wait for it.

libgomp's manual (``GOMP_SPINCOUNT``) shows the way out. While a process has more OpenMP threads than there are cores,
each spins 1,000 times instead of 300,000, and then sleeps. So one more team of threads, which only sleeps, makes the
others patient. The team comes and goes with the load of the machine. It changes no bit of what is computed.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator

import psutil
import torch

from ecgray.processor import affinity, cores

LOOK_EVERY_S = 1.0
"""How often the load of the machine is looked at."""
CROWDED_CORES = 0.4
"""Cores' worth of other processes' work, beyond those that the threads leave free, from which sleeping is faster than
spinning (measured on two cores: at .3 they are equal)."""
_MARGIN = 0.1
"""By how much less there must be before the threads spin again."""
_GRAIN = 32_768
"""Numbers that torch gives a thread at least."""


@contextlib.contextmanager
def threads(count: int | None = None) -> Iterator[None]:
    """Have torch compute with ``count`` threads inside (None: as many as now, and no more than the cores that this
    process may use), and with as many as before afterwards.

    As long as other processes want the cores, the threads sleep instead of spinning when they wait for one another.
    """
    before = torch.get_num_threads()
    count = count or min(before, cores())
    torch.set_num_threads(count)
    watch = _Watch(count)
    try:
        with watch:
            yield
    finally:
        torch.set_num_threads(before)


def crowded(others: float, threads: int, cores: int, was: bool) -> bool:
    """Whether ``threads`` should sleep when they wait, beside ``others`` cores' worth of work on ``cores`` cores;
    ``was``: what the last answer was."""
    return others + threads - cores > CROWDED_CORES - (_MARGIN if was else 0.0)


class Sleepers:
    """Threads of OpenMP that only sleep, as many as make ``count`` others on ``cores`` cores patient."""

    def __init__(self, count: int, cores: int) -> None:
        self._end = threading.Event()
        teams = max(1, math.ceil((cores - count + 1) / (count - 1)))
        self._teams = [threading.Thread(target=self._sleep, args=(count,), daemon=True) for _ in range(teams)]
        for team in self._teams:
            team.start()

    def _sleep(self, count: int) -> None:
        torch.zeros(count * _GRAIN).add_(1)  # the team of a thread is made by its first work, and ends with the thread
        self._end.wait()

    def end(self) -> None:
        self._end.set()
        for team in self._teams:
            team.join()


class _Watch:
    """Looks at the load of the machine while inside, and keeps the sleepers."""

    def __init__(self, count: int) -> None:
        self._count, self._end = count, threading.Event()
        self._thread = threading.Thread(target=self._look, name="ecgray-threads", daemon=True)

    def __enter__(self) -> None:
        if self._count > 1 and hasattr(os, "sched_getaffinity"):
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        around: int = affinity()
        sleepers: Sleepers | None = None
        before = _work_of_others()
        while not self._end.wait(LOOK_EVERY_S):
            now = _work_of_others()
            others = (now[1] - before[1]) / (now[0] - before[0])
            before = now
            if crowded(others, self._count, around, was=sleepers is not None):
                sleepers = sleepers or Sleepers(self._count, around)
            elif sleepers is not None:
                sleepers.end()
                sleepers = None
        if sleepers is not None:
            sleepers.end()


def _work_of_others() -> tuple[float, float]:
    """(now, seconds of work that other processes have done on the cores of this one), from two unnamed beginnings.

    Processes that are nicer than this one do not count: they wait for it, and fill what it leaves.
    """
    every = psutil.cpu_times(percpu=True)
    mine = [every[number] for number in os.sched_getaffinity(0) if number < len(every)]
    busy = sum(core.user + core.system + core.irq + core.softirq + core.steal for core in mine)
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        busy += sum(core.nice for core in mine)
    return time.monotonic(), busy - time.process_time()
