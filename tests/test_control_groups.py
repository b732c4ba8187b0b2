"""The limit of memory, read as Linux tells it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ecgray.control_groups import memory_limit


@pytest.mark.parametrize(
    ("groups", "file", "limit", "expected"),
    [
        ("0::/slurm/job_7/task_0\n", "slurm/job_7/memory.max", "3000000\n", 3_000_000),
        ("0::/\n", "memory.max", "max\n", None),
        ("4:cpu:/a\n3:memory:/a/b\n0::/a\n", "memory/a/b/memory.limit_in_bytes", "2000000\n", 2_000_000),
        ("3:memory:/a/b\n", "memory/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("0::/docker/of-the-host\n", "memory.max", "5000000\n", 5_000_000),
        ("0::/a\n", "b/memory.max", "5000000\n", None),
    ],
)
def test_the_least_limit_around_the_process(
    tmp_path: Path, groups: str, file: str, limit: str, expected: int | None
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    place = tmp_path / "fs" / file
    place.parent.mkdir(parents=True)
    place.write_text(limit)
    assert memory_limit(tmp_path / "cgroup", tmp_path / "fs") == (expected or psutil.virtual_memory().total)


def test_the_machine_where_nothing_is_told(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "none") == psutil.virtual_memory().total
    assert 1 << 26 < memory_limit() <= psutil.virtual_memory().total
