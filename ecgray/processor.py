"""What this process has of the machine's processor."""

from __future__ import annotations

import math
import os
from pathlib import Path

from ecgray.control_groups import settings


def cores() -> int:
    """Cores that this process can keep busy: those of its affinity (taskset, Slurm, cpusets), fewer where a control
    group's quota (a container's --cpus) is lower. A part of a core is left to the processes beside it: a quota of 1.5
    is 1 core, and so is any below 1."""
    return max(1, int(min(affinity(), quota())))


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bfloat16 by instructions of its own (avx512_bf16, amx_bf16)."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def affinity() -> int:
    """Cores that the kernel lets this process run on."""
    return len(os.sched_getaffinity(0))


def quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores' worth of time that the control groups around this process grant, inf where none sets a bound."""
    told = [text.split() for (text,) in settings("cpu", "cpu.max", groups=groups, root=root)]
    told += map(list, settings("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us", groups=groups, root=root))
    return min((int(time) / int(period) for time, period in told if time.isdigit()), default=math.inf)
