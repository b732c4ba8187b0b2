"""How many workers a cluster holds, what each of them reserves of it, and how more room is waited for.

Counted node by node: eight CPUs on four nodes are no room for a worker that wants three. Every worker leaves some CPU
of its node to the stream that feeds it, since Ray Data waits for ever where workers reserve all.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ecgray.errors import EcgrayError
from ecgray.sampling.ray_nodes import Node, free_nodes, placement_groups

LEAST_CPUS = 0.1
"""The least share of a core that a worker is started on."""
LEAST_DATA_CPUS = 0.25
"""What the stream of each worker needs beside the worker."""
PATIENCE_S = 3600.0
"""How long machines are waited for: those that an autoscaler starts, or lost ones that return."""

FEWER_AFTER_S = 120.0
"""How long an autoscaler is asked for so many places before it is asked for fewer."""

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Room:
    """Room for ``workers`` workers that reserve ``resources`` each."""

    workers: int
    resources: dict[str, float]


def room_for(
    nodes: Sequence[Node],
    workers: tuple[int, int],
    backend: str,
    device: Literal["cpu", "cuda"] | None = None,
    most_cpus: float = math.inf,
) -> Room | None:
    """Room for as many workers between (fewest, most) as ``nodes`` hold; None where they do not hold the fewest.

    A worker takes a GPU of its own where there are any, unless ``device`` says otherwise, and at most ``most_cpus``
    with its stream. Without GPUs each worker beyond the fewest needs a whole core, its stream included, since two on
    one core are no faster than one.
    """
    fewest, most = workers
    gpu = device == "cuda" or (device is None and any(node.get("GPU", 0.0) >= 1 for node in nodes))
    for count in range(most, fewest - 1, -1):
        cpus = min(share(nodes, count, 1.0 if gpu else 0.0), most_cpus)
        for_data = min(cpus / 2, 1.0) if backend == "ray" else 0.0
        enough = for_data >= LEAST_DATA_CPUS or backend != "ray"
        if count > fewest and not gpu:
            enough = enough and cpus >= 1
        if enough and cpus - for_data >= LEAST_CPUS:
            own = min(cpus - for_data, 1.0) if gpu else cpus - for_data
            return Room(count, {"CPU": whole(own)} | ({"GPU": 1.0} if gpu else {}))
    return None


def places(nodes: Sequence[Node], cpus: float, gpus: float = 0.0) -> int:
    """How many fit on ``nodes`` at once that want so many CPUs and GPUs of one node; less than a GPU is of one card."""

    def on(node: Node) -> int:
        count, cards = int(node.get("CPU", 0.0) / cpus + 1e-6), node.get("GPU", 0.0)
        if not gpus:
            return count
        return min(count, int(cards / gpus + 1e-6) if gpus >= 1 else int(cards) * int(1 / gpus + 1e-6))

    return sum(map(on, nodes))


def share(nodes: Sequence[Node], workers: int, gpus: float = 0.0) -> float:
    """The most CPUs that each of ``workers`` can have on a node, beside ``gpus`` of its GPUs; 0 where not all fit."""
    shares = {node.get("CPU", 0.0) / k for node in nodes for k in range(1, workers + 1)}
    return max((cpus for cpus in shares if cpus > 0 and places(nodes, cpus, gpus) >= workers), default=0.0)


def whole(cpus: float) -> float:
    """Whole CPUs, or hundredths of one."""
    return float(int(cpus + 1e-6)) if cpus >= 1 else int(cpus * 100 + 1e-6) / 100


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


def to_ask_for(fewest: int, most: int, waited_s: float) -> int:
    """How many places to ask an autoscaler for that has been asked for ``waited_s``: the most, then ever fewer.

    Ray's (v2) starts all the nodes of what it is asked for or none: one place beyond what the cluster may hold at most,
    which nobody can look up, and no node would ever come. Those on their way come also when fewer are asked for.
    """
    return fewest + ((most - fewest) >> int(waited_s / FEWER_AFTER_S))


def wait_for(
    find: Callable[[Sequence[Node]], T | None],
    wanted: tuple[int, int],
    device: Literal["cpu", "cuda"] | None,
    refusal: Callable[[str, bool], str],
    *,
    patient: bool = False,
    look: Callable[[], None] = lambda: None,
) -> T:
    """What ``find`` sees on the free nodes, waited for where machines may still come: because there were enough before
    (``patient``), or by an autoscaler, which is asked for ``wanted`` (fewest, most) places with a CPU, and a GPU where
    ``device`` or the nodes that are there say so. ``look`` is called before each wait, and may raise.

    Raises EcgrayError with what ``refusal`` says of a cluster that holds so much, and whether GPUs are looked for.
    """
    began, said = time.monotonic(), 0.0
    while True:
        nodes = free_nodes()
        found = find(nodes)
        if found is not None:
            return found
        cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
        held = f"{cpus:g} CPUs and {gpus:g} GPUs free on {len(nodes)} nodes"
        gpu = device == "cuda" or (device is None and gpus >= 1)
        if (not patient and not may_grow()) or time.monotonic() - began > PATIENCE_S:
            raise EcgrayError(refusal(held, gpu))
        look()
        place = {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": 1.0}
        ask_for([place] * to_ask_for(*wanted, time.monotonic() - began))
        if time.monotonic() > said:
            said = time.monotonic() + 60
            log.warning("Waiting for room: %s.", held)
        time.sleep(1.0)


def ask_for(bundles: list[dict[str, float]], groups: Collection[str] | None = None) -> None:
    """Tell the autoscaler, where there is one, what could be used beside what placement groups (all, or ``groups``
    alone) hold; nothing is reserved by it. What was asked before is forgotten."""
    if may_grow():
        from ray.autoscaler.sdk import request_resources

        made = {name: group for name, group in placement_groups().items() if group["state"] == "CREATED"}
        names = made.keys() if groups is None else made.keys() & groups
        held = [dict(bundle) for name in names for bundle in made[name]["bundles"].values()]
        request_resources(bundles=bundles + held if bundles else [])


def may_grow() -> bool:
    """Whether an autoscaler starts the nodes of this cluster: each then knows the group of nodes that it is of."""
    import ray

    return any("ray.io/node-group" in (node.get("Labels") or {}) for node in ray.nodes() if node["Alive"])
