"""A run that goes on with fewer workers when a node is lost, and takes it back when it returns."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from ecgray.training.checkpoint import newest_checkpoint

Cluster = Any


@pytest.mark.slow
def test_a_node_is_lost_and_returns(cluster: Cluster, wait_until: Any) -> None:
    run, driver = cluster.drive("elastic", workers=(1, 2), step_seconds=1.0)

    def newest() -> int:
        found = newest_checkpoint(run.checkpoints)
        return int(found.name.removeprefix("step-")) if found else 0

    wait_until(lambda: newest() >= 5, "a checkpoint", driver)
    cluster.hosts.crash(1)
    lost_at = newest()
    wait_until(lambda: newest() > lost_at + 5, "steps by one worker alone", driver)
    cluster.hosts.boot(1)
    cluster.start(1)
    cluster.finish(run, driver)
    workers = cluster.assert_frames(run)
    assert [count for count, _ in groupby(workers)] == [2, 1, 2], workers
    # What is left for a larger cluster leaves with a checkpoint: no step of the second start is done twice.
    assert workers.count(1) > 5
