"""What a Ray cluster has left, node by node: beside training workers and trials, which reserve it for good."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Node = Mapping[str, float]
"""What of a node may be had: CPU, GPU."""


def free_nodes(groups: Collection[str] | None = None) -> list[Node]:
    """What placement groups (training workers, trials) leave of each node of the cluster, those that are being drained
    left out; of ``groups`` alone where they are given, so that a run sees what it might have without its own."""
    import ray
    from ray._private.state import state

    draining = state.get_draining_nodes()
    free = {n["NodeID"]: dict(n["Resources"]) for n in ray.nodes() if n["Alive"] and n["NodeID"] not in draining}
    for name, group in placement_groups().items():
        if group["state"] != "CREATED" or (groups is not None and name not in groups):
            continue
        for bundle, node in group["bundles_to_node_id"].items():
            for resource, amount in group["bundles"][bundle].items():
                if node in free and resource in free[node]:
                    free[node][resource] -= amount
    return list(free.values())


def placement_groups() -> dict[str, Any]:
    """All placement groups of the cluster by their id, those that were removed too."""
    from ray.util import placement_group_table

    table: dict[str, Any] = placement_group_table()
    return table
