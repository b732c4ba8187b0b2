"""How many workers a cluster holds, and what each of them reserves of it.

Counted node by node: eight CPUs on four nodes are no room for a worker that wants three. Every worker leaves some CPU
of its node to the stream that feeds it, since Ray Data waits for ever where workers reserve all.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from ecgray.sampling.ray_nodes import Node, placement_groups

LEAST_CPUS = 0.1
"""The least share of a core that a worker is started on."""
LEAST_DATA_CPUS = 0.25
"""What the stream of each worker needs beside the worker."""


@dataclass(frozen=True)
class Room:
    """Room for ``workers`` workers that reserve ``resources`` each."""

    workers: int
    resources: dict[str, float]


def room_for(
    nodes: Sequence[Node], workers: tuple[int, int], backend: str, device: Literal["cpu", "cuda"] | None = None
) -> Room | None:
    """Room for as many workers between (fewest, most) as ``nodes`` hold; None where they do not hold the fewest.

    A worker takes a GPU of its own where there are any, unless ``device`` says otherwise. Without GPUs each worker
    beyond the fewest needs a whole core, its stream included, since two on one core are no faster than one.
    """
    fewest, most = workers
    gpu = device == "cuda" or (device is None and any(node.get("GPU", 0.0) >= 1 for node in nodes))
    for count in range(most, fewest - 1, -1):
        cpus = _share(nodes, count, gpu)
        for_data = min(cpus / 2, 1.0) if backend == "ray" else 0.0
        enough = for_data >= LEAST_DATA_CPUS or backend != "ray"
        if count > fewest and not gpu:
            enough = enough and cpus >= 1
        if enough and cpus - for_data >= LEAST_CPUS:
            own = min(cpus - for_data, 1.0) if gpu else cpus - for_data
            resources = {"CPU": float(int(own)) if own >= 1 else int(own * 100 + 1e-6) / 100}
            return Room(count, resources | ({"GPU": 1.0} if gpu else {}))
    return None


def wanted(workers: int, device: Literal["cpu", "cuda"] | None) -> list[dict[str, float]]:
    """What to ask an autoscaler for, when it is not known yet what its nodes are like: a bundle for each worker."""
    return [{"CPU": 1.0, "GPU": 1.0} if device == "cuda" else {"CPU": 1.0}] * workers


def _share(nodes: Sequence[Node], workers: int, gpu: bool) -> float:
    """The most CPUs that each of ``workers`` can have to itself and its stream; 0 where there is no place for all."""

    def places(cpus: float) -> int:
        counts = (int(node.get("CPU", 0.0) / cpus + 1e-6) for node in nodes)
        if not gpu:
            return sum(counts)
        return sum(min(count, int(node.get("GPU", 0.0))) for count, node in zip(counts, nodes, strict=True))

    shares = {node.get("CPU", 0.0) / k for node in nodes for k in range(1, workers + 1)}
    return max((cpus for cpus in shares if cpus > 0 and places(cpus) >= workers), default=0.0)


def groups_of_others(room: Room, before: Collection[str]) -> set[str]:
    """The placement groups there are, without the one that was made for ``room`` since ``before`` was looked at."""
    return placement_groups().keys() - _made_for(room, before)


def await_release(room: Room, before: Collection[str], patience_s: float = 15.0) -> None:
    """Wait until what was reserved for ``room`` is free again, so that it is not taken for somebody else's."""
    deadline = time.monotonic() + patience_s
    while _made_for(room, before) and time.monotonic() < deadline:
        time.sleep(0.2)


def _made_for(room: Room, before: Collection[str]) -> set[str]:
    bundles = [room.resources] * room.workers
    return {
        name
        for name, group in placement_groups().items()
        if name not in before and list(group["bundles"].values()) == bundles and group["state"] != "REMOVED"
    }


def may_grow() -> bool:
    """Whether an autoscaler has said that it can start nodes."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config() is not None
