"""The machines that a run would use: the nodes of a cluster, or this one alone."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ecgray.cluster import join
from ecgray.control_groups import memory_limit
from ecgray.errors import EcgrayError
from ecgray.operations import all_reduce, probe, storage_check
from ecgray.processor import affinity, cores, has_fast_bf16, quota

PATIENCE_S = 60.0
"""For one answer of a node."""


@dataclass(frozen=True)
class Node:
    """A node as the cluster has it; ``name`` tells it apart, ``facts`` are its own (``probe.facts``) or the error."""

    id: str
    name: str
    resources: dict[str, float]
    facts: dict[str, Any] | Exception

    @property
    def gpus(self) -> int:
        return int(self.resources.get("GPU", 0))


def processor() -> dict[str, Any]:
    """Of this machine its CPUs, and those that a process here may use: by affinity, by quota (None: no bound), and
    after both; and whether they are made for bf16."""
    granted = quota()
    return {
        "cpus": os.cpu_count(),
        "affinity": affinity(),
        "quota": granted if math.isfinite(granted) else None,
        "cores": cores(),
        "fast_bf16": has_fast_bf16(),
    }


class Machines(Protocol):
    """Where the checks work."""

    nodes: list[Node]
    lost: list[str]
    """Names of nodes that were there and are not."""

    def clock_offsets(self) -> dict[str, float]:
        """{node: seconds that its clock is ahead of this process's}."""
        ...

    def processors(self) -> dict[str, dict[str, Any] | Exception]:
        """{node: ``processor`` there, or the error}."""
        ...

    def torch_sees(self) -> dict[str, dict[str, Any] | Exception]:
        """{node with GPUs: what PyTorch makes of one of them}."""
        ...

    def all_reduce(self) -> dict[str, Any]:
        """``all_reduce.measure`` between the nodes, or between two processes of the only one."""
        ...

    def read_on_nodes(self, place: str) -> dict[str, Any]:
        """{node: SHA-256 of a file, or the error}."""
        ...


class Alone:
    """This machine, with no cluster and without Ray."""

    def __init__(self) -> None:
        resources = {"CPU": float(cores()), "memory": float(memory_limit())}
        self._sees = probe.torch_sees()
        if self._sees["gpus"]:
            resources["GPU"] = float(self._sees["gpus"])
        temporary = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
        facts = probe.facts([os.getcwd(), temporary])
        self.nodes = [Node("", "this machine", resources, facts)]
        self.lost: list[str] = []

    def clock_offsets(self) -> dict[str, float]:
        return {}

    def processors(self) -> dict[str, dict[str, Any] | Exception]:
        return {"this machine": processor()}

    def torch_sees(self) -> dict[str, dict[str, Any] | Exception]:
        return {"this machine": self._sees} if self._sees["gpus"] else {}

    def all_reduce(self) -> dict[str, Any]:
        return all_reduce.measure_here(1 if self._sees["gpus"] == 1 else 2)

    def read_on_nodes(self, place: str) -> dict[str, Any]:
        return {}


class Cluster:
    """The cluster that this process is connected to."""

    def __init__(self, temporary: str) -> None:
        import ray

        for module in (probe, all_reduce, storage_check):
            ray.cloudpickle.register_pickle_by_value(module)
        listed = sorted(ray.nodes(), key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))
        addresses = [node["NodeManagerAddress"] for node in listed]
        names = [
            address if addresses.count(address) == 1 else f"{address} ({node['NodeID'][:6]})"
            for address, node in zip(addresses, listed, strict=True)
        ]
        there = [(name, node) for name, node in zip(names, listed, strict=True) if node["Alive"]]
        self.lost = [name for name, node in zip(names, listed, strict=True) if not node["Alive"]]
        asked = [
            self._task(probe.facts, node["NodeID"]).remote([temporary], node["MetricsExportPort"]) for _, node in there
        ]
        answers = [self._get(reference) for reference in asked]
        self.nodes = [
            Node(node["NodeID"], name, node["Resources"], facts)
            for (name, node), facts in zip(there, answers, strict=True)
        ]

    def clock_offsets(self) -> dict[str, float]:
        """The best of three questions: the node's time against the middle of asking and answer."""
        offsets = {}
        for node in self._answering:
            best = float("inf")
            for _ in range(3):
                asked = time.time()
                there = self._get(self._task(probe.clock, node.id).remote())
                answered = time.time()
                if not isinstance(there, Exception) and answered - asked < best:
                    best, offsets[node.name] = answered - asked, there - (asked + answered) / 2
        return offsets

    def processors(self) -> dict[str, dict[str, Any] | Exception]:
        asked = {node.name: self._task(processor, node.id).remote() for node in self._answering}
        return {name: self._get(reference) for name, reference in asked.items()}

    def torch_sees(self) -> dict[str, dict[str, Any] | Exception]:
        asked = {
            node.name: self._task(probe.torch_sees, node.id, gpus=1).remote() for node in self._answering if node.gpus
        }
        return {name: self._get(reference) for name, reference in asked.items()}

    def all_reduce(self) -> dict[str, Any]:
        import ray

        equipped = [node for node in self._answering if node.gpus] or self._answering
        gpus = 1 if equipped[0].gpus else 0
        if len(equipped) == 1 and equipped[0].gpus != 1:
            equipped *= 2
        address = ray.get(self._task(all_reduce.free_address, equipped[0].id).remote(), timeout=PATIENCE_S)
        asked = [
            self._task(all_reduce.measure, node.id, gpus=gpus).remote(rank, len(equipped), address)
            for rank, node in enumerate(equipped)
        ]
        measured: dict[str, Any] = ray.get(asked, timeout=2 * all_reduce.TIMEOUT_S)[0]
        return measured

    def read_on_nodes(self, place: str) -> dict[str, Any]:
        asked = {node.name: self._task(storage_check.read_sha256, node.id).remote(place) for node in self._answering}
        return {name: self._get(reference) for name, reference in asked.items()}

    @property
    def _answering(self) -> list[Node]:
        return [node for node in self.nodes if not isinstance(node.facts, Exception)]

    @staticmethod
    def _task(function: Callable[..., Any], node: str, gpus: int = 0) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        return ray.remote(function).options(num_cpus=0, num_gpus=gpus, max_retries=0, scheduling_strategy=there)

    @staticmethod
    def _get(reference: Any) -> Any:
        """The answer, or the error instead of it."""
        import ray

        try:
            return ray.get(reference, timeout=PATIENCE_S)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(reference, force=True)
            return TimeoutError(f"no answer within {PATIENCE_S:g} s")
        except ray.exceptions.RayError as error:
            return error


@contextlib.contextmanager
def connect() -> Iterator[Machines]:
    """The cluster that RAY_ADDRESS names or that runs on this machine, else this machine alone.

    Raises EcgrayError when RAY_ADDRESS leads nowhere, or the cluster refuses this process.
    """
    import ray

    began = not ray.is_initialized()
    address = os.environ.get("RAY_ADDRESS", "auto")
    try:
        context = join(address, ignore_reinit_error=True, logging_level=logging.ERROR, log_to_driver=False)
    except EcgrayError as error:
        if address == "auto" and "Could not find any running Ray instance" in str(error.__cause__):
            yield Alone()
            return
        raise
    try:
        yield Cluster(os.path.dirname(context.address_info["session_dir"]))
    finally:
        if began:
            ray.shutdown()
