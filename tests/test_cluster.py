"""Clusters that do not let a process in: one line about the cluster, and none about disks."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from ecgray import cluster
from ecgray.cluster import connected
from ecgray.errors import EcgrayError
from ecgray.training.run import resumable

ray = pytest.importorskip("ray")


def refusal(run: Path) -> str:
    with pytest.raises(EcgrayError) as refused, resumable(run), connected():
        pass
    said = str(refused.value)
    assert "\n" not in said and "read and write its files" not in said
    return said


def test_an_address_where_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for name in (address, f"ray://{address}"):
            monkeypatch.setenv("RAY_ADDRESS", name)
            said = refusal(tmp_path)
            assert said.startswith(f"The cluster at {name} must let this process in, got: Connection refused;")
            assert "RAY_ADDRESS" in said and "token" in said
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    assert "Invalid address format" in refusal(tmp_path)


@pytest.mark.parametrize("kind", [ConnectionError, RuntimeError])
def test_a_cluster_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    """A wrong token ends in the one, another version of Ray in the other."""

    def init(**options: object) -> None:
        raise kind("Version mismatch:\n    The cluster was started with:\n        Ray: 1.0")

    monkeypatch.setattr(ray, "init", init)
    assert "got: Version mismatch: The cluster was started with: Ray: 1.0; start it" in refusal(tmp_path)


def test_a_cluster_made_here_has_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray alone counts all that the machine has."""
    given: list[object] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "cores", lambda: 3)
    monkeypatch.setattr(ray, "init", lambda **options: given.append(options["num_cpus"]))
    for cpus in (None, 2):
        with connected(cpus=cpus):
            pass
    assert given == [3, 2]


@pytest.mark.parametrize(("limit", "store"), [(10**9, 300_000_000), (10**8, 75 << 20), (None, None)])
def test_a_cluster_made_here_keeps_to_the_memory_of_its_control_group(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, store: int | None
) -> None:
    """Ray looks at the root of all groups, which is that of a container, and not at the group of a job in it."""
    given: list[object] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "memory_limit", lambda: limit or psutil.virtual_memory().total)
    monkeypatch.setattr(ray, "init", lambda **options: given.append(options.get("object_store_memory")))
    with connected():
        pass
    assert given == [store]


def test_a_cluster_that_runs_here_is_joined_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of ``ray start``, with RAY_ADDRESS unset: Ray finds it, and refuses a number of CPUs."""
    joined: list[dict[str, object]] = []

    def init(**options: object) -> None:
        if options.get("num_cpus") is not None:
            raise ValueError("When connecting to an existing cluster, num_cpus and num_gpus must not be provided.")
        joined.append(options)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    with connected(cpus=2, quiet=True):
        pass
    assert len(joined) == 1 and joined[0]["address"] is None and joined[0]["log_to_driver"] is False
