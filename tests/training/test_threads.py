"""Threads that wait for one another: when they sleep, that they do, and that nothing that is computed depends on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ecgray.processor import affinity
from ecgray.training.threads import CROWDED_CORES, Sleepers, crowded, threads


@pytest.mark.parametrize(
    ("others", "count", "cores", "was", "sleep"),
    [
        (0.0, 2, 2, False, False),
        (CROWDED_CORES - 0.01, 2, 2, False, False),
        (CROWDED_CORES + 0.01, 2, 2, False, True),
        (CROWDED_CORES - 0.01, 2, 2, True, True),
        (0.2, 2, 2, True, False),
        (8.0, 8, 16, False, False),
        (8.9, 8, 16, False, True),
        (3.0, 4, 16, False, False),
        (1.0, 16, 16, False, True),
    ],
)
def test_threads_sleep_where_others_want_their_cores(
    others: float, count: int, cores: int, was: bool, sleep: bool
) -> None:
    assert crowded(others, count, cores, was) is sleep


def test_as_many_threads_as_asked_for_inside_and_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
        with threads(affinity()):
            assert torch.get_num_threads() == affinity()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="inside"), threads(1):
        raise ValueError("inside")
    assert torch.get_num_threads() == before


SLEEPS = """
import os, sys, threading
import torch
from ecgray.training.threads import Sleepers

torch.set_num_threads(2)
numbers = torch.zeros(1 << 17)
numbers.add_(1)
known = {threading.get_native_id()}
pool = [int(task) for task in os.listdir("/proc/self/task") if int(task) not in known]

def sleeps(thread):
    with open(f"/proc/self/task/{thread}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))

def rounds(count):
    before = {thread: sleeps(thread) for thread in pool}
    for _ in range(count):
        numbers.add_(1)
        for _ in range(20_000):  # longer than a thousand looks at a word, shorter than 300,000
            pass
    return max(sleeps(thread) - before[thread] for thread in pool)

rounds(20)
spinning = rounds(300)
sleepers = Sleepers(2, len(os.sched_getaffinity(0)))
while any(team.is_alive() for team in sleepers._teams) and len(os.listdir("/proc/self/task")) < len(pool) + 3:
    pass
rounds(20)
sleeping = rounds(300)
sleepers.end()
rounds(20)
print(spinning, sleeping, rounds(300), float(numbers[0]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts sleeps in Linux's /proc")
@pytest.mark.skipif(affinity() < 2, reason="two threads on one core never spin for long")
def test_sleepers_make_the_threads_of_a_step_sleep_and_leave_nothing_behind() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    found = subprocess.run([sys.executable, "-c", SLEEPS], capture_output=True, check=True, text=True, env=environment)
    spinning, sleeping, after, total = (float(word) for word in found.stdout.split())
    assert sleeping >= 250  # of 300 times that it had nothing to do
    assert spinning < 150 and after < 150
    assert total == 961


@pytest.mark.parametrize("count", [2, 3])
def test_what_is_computed_does_not_depend_on_sleepers(count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    layer = torch.nn.Conv1d(8, 16, 7, padding=3)
    signal = torch.randn(16, 8, 4096, generator=draw)

    def gradients() -> list[torch.Tensor]:
        layer.zero_grad()
        layer(signal).square().mean().backward()
        return [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]

    with threads(count):
        spinning = gradients()
        sleepers = Sleepers(count, affinity())
        sleeping = gradients()
        sleepers.end()
        after = gradients()
    for one, two, three in zip(spinning, sleeping, after, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
