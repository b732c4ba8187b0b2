"""Control groups around this process: what a container, a Slurm job or systemd lets it use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_MEMBERSHIP, _ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def settings(controller: str, *files: str, groups: Path = _MEMBERSHIP, root: Path = _ROOT) -> Iterator[tuple[str, ...]]:
    """The texts of ``files``, which belong together, of every group around this process that has all of them.

    controller: "cpu" or "memory"; files: their names in version 1 or in version 2 of control groups, which have other
    names. ``groups`` and ``root`` are where Linux tells; elsewhere nothing is there.
    """
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            folder = root
        elif controller in controllers.split(","):  # version 1, where cpu and cpuacct may share a folder
            folder = root / controller
        else:
            continue
        group = folder / path.lstrip("/")
        # In a container the path may be that of the host, and its own group is the root.
        for place in (group, *(above for above in group.parents if above.is_relative_to(folder))):
            if all((place / file).is_file() for file in files):
                yield tuple((place / file).read_text().strip() for file in files)


def memory_limit(groups: Path = _MEMBERSHIP, root: Path = _ROOT) -> int:
    """Bytes of memory that this process may fill: the machine's, or fewer where a control group around it (of a
    container, a Slurm job) allows fewer. ``groups`` and ``root``: see ``settings``."""
    limits = [psutil.virtual_memory().total]
    for file in ("memory.max", "memory.limit_in_bytes"):
        for (text,) in settings("memory", file, groups=groups, root=root):
            if text.isdigit():
                limits.append(int(text))
    return min(limits)
