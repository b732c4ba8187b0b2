"""The cores of a process: as Linux tells them, and in a process that really has fewer."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ecgray import processor
from ecgray.processor import cores, quota


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/docker/of-the-host\n", {"cpu.max": "150000 100000\n"}, 1.5),
        (
            "0::/slurm/job_7/task_0\n",
            {"slurm/job_7/task_0/cpu.max": "400000 100000\n", "slurm/job_7/cpu.max": "200000 100000\n"},
            2.0,
        ),
        ("0::/a\n", {"b/cpu.max": "100000 100000\n"}, math.inf),
        (
            "4:cpu,cpuacct:/a/b\n0::/a\n",
            {"cpu/a/b/cpu.cfs_quota_us": "-1\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}
            | {"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "50000\n"},
            6.0,
        ),
        (
            "3:cpuacct:/a\n2:cpuset:/a\n",
            {"cpuacct/a/cpu.cfs_quota_us": "1\n", "cpuacct/a/cpu.cfs_period_us": "1\n"},
            math.inf,
        ),
        ("", {}, math.inf),
    ],
)
def test_the_least_quota_around_the_process(
    tmp_path: Path, groups: str, files: dict[str, str], expected: float
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    assert quota(tmp_path / "cgroup", tmp_path / "fs") == expected


def test_no_quota_where_nothing_is_told(tmp_path: Path) -> None:
    assert quota(tmp_path / "none") == math.inf


@pytest.mark.parametrize(
    ("affinity", "granted", "expected"),
    [(8, math.inf, 8), (8, 3.0, 3), (8, 1.5, 1), (8, 0.5, 1), (2, 6.0, 2), (1, 1.0, 1)],
)
def test_the_fewer_of_affinity_and_quota_count_as_whole_cores(
    monkeypatch: pytest.MonkeyPatch, affinity: int, granted: float, expected: int
) -> None:
    monkeypatch.setattr(processor, "affinity", lambda: affinity)
    monkeypatch.setattr(processor, "quota", lambda: granted)
    assert cores() == expected


ASK = "from ecgray.processor import affinity, cores, quota; print(affinity(), quota(), cores())"


def asked(before: Callable[[], object]) -> list[str]:
    """(affinity, quota, cores) of a process that first does something about itself."""
    done = subprocess.run([sys.executable, "-c", ASK], preexec_fn=before, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_process_on_one_core_of_several() -> None:
    one = {min(os.sched_getaffinity(0))}
    told = asked(lambda: os.sched_setaffinity(0, one))
    assert (told[0], told[2]) == ("1", "1")


@pytest.fixture
def group() -> Iterator[tuple[Path, bool]]:
    """A control group of CPU time made for the test, and whether it is of version 2."""
    second = "cpu" in (Path("/sys/fs/cgroup/cgroup.subtree_control").read_text().split() if _v2() else [])
    folder = Path("/sys/fs/cgroup" if second else "/sys/fs/cgroup/cpu") / f"ecgray-test-{os.getpid()}"
    if not second and _v2():
        pytest.skip("the root group hands no CPU time on")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"control groups may not be made here: {error}")
    yield folder, second
    folder.rmdir()


def _v2() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").is_file()


@pytest.mark.parametrize(("quota_us", "expected"), [(150_000, ["1.5", "1"]), (50_000, ["0.5", "1"])])
def test_a_process_in_a_group_with_a_quota(group: tuple[Path, bool], quota_us: int, expected: list[str]) -> None:
    folder, second = group
    (folder / ("cpu.max" if second else "cpu.cfs_quota_us")).write_text(str(quota_us))
    assert asked(lambda: (folder / "cgroup.procs").write_text("0"))[1:] == expected
