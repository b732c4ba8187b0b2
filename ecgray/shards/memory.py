"""How much memory there is for the pages of shards."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")


def memory_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> int:
    """Bytes of memory that this process may fill: the machine's, or fewer where a control group around it (of a
    container, a Slurm job) allows fewer. ``groups`` and ``root`` are where Linux tells; elsewhere nothing is there."""
    limits = [psutil.virtual_memory().total]
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            folder, name = root, "memory.max"
        elif controllers == "memory":
            folder, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = folder / path.lstrip("/")
        # In a container the path may be that of the host, and its own group is the root.
        for place in (group, *(above for above in group.parents if above.is_relative_to(folder))):
            text = (place / name).read_text().strip() if (place / name).is_file() else "max"
            if text.isdigit():
                limits.append(int(text))
    return min(limits)
