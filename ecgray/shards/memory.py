"""How much memory there is for the pages of shards."""

from __future__ import annotations

from pathlib import Path

import psutil

from ecgray.control_groups import settings


def memory_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this process may fill: the machine's, or fewer where a control group around it (of a
    container, a Slurm job) allows fewer. ``groups`` and ``root`` are where Linux tells; elsewhere nothing is there."""
    limits = [psutil.virtual_memory().total]
    for file in ("memory.max", "memory.limit_in_bytes"):
        for (text,) in settings("memory", file, groups=groups, root=root):
            if text.isdigit():
                limits.append(int(text))
    return min(limits)
