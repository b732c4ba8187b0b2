"""What can be lost on a cluster, lost for real: the run ends with the bits of the run to which nothing happened.

Two hosts with a `ray start` each, two workers that average their gradients over the wire between them.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from ecgray.training.run import RunFolder

Cluster = Any


def workers_of(cluster: Cluster, host: int) -> list[int]:
    """Process ids of the training workers on a host."""
    return [pid for pid, words in cluster.hosts.processes(host).items() if "RayTrainWorker" in words]


def steps_begun(run: RunFolder) -> int:
    lines = run.read_metrics()
    return lines[-1]["step"] if lines else 0


def test_a_node_killed_in_the_middle(cluster: Cluster) -> None:
    whole = cluster.undisturbed()
    assert cluster.assert_frames(whole) == [2] * 40
    run, driver = cluster.drive("node-killed")
    cluster.await_step(run, 10, driver)
    assert len(workers_of(cluster, 0)) == len(workers_of(cluster, 1)) == 1
    cluster.hosts.crash(1)
    time.sleep(10)
    cluster.hosts.boot(1)
    cluster.start(1)
    cluster.finish(run, driver)
    cluster.assert_frames(run)
    cluster.assert_equal(run, whole)


def test_a_worker_that_gets_sigterm_saves_and_leaves(cluster: Cluster) -> None:
    run, driver = cluster.drive("sigterm")
    cluster.await_step(run, 5, driver)
    (worker,) = workers_of(cluster, 1)
    os.kill(worker, signal.SIGTERM)
    cluster.finish(run, driver)
    saved = [step for step in range(1, 40) if step % 5 and cluster.checkpoint(run, step).is_dir()]
    assert len(saved) <= 1  # where it left, unless that was where a checkpoint is due
    cluster.assert_frames(run)
    cluster.assert_equal(run, cluster.undisturbed())


def test_a_network_cut_of_20_s(cluster: Cluster) -> None:
    run, driver = cluster.drive("cut")
    cluster.await_step(run, 10, driver)
    cluster.hosts.cut(1)
    reached = steps_begun(run)
    time.sleep(20)
    assert steps_begun(run) <= reached + 2
    cluster.hosts.heal(1)
    cluster.finish(run, driver)
    cluster.assert_frames(run)
    cluster.assert_equal(run, cluster.undisturbed())
