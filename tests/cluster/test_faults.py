"""What can be lost on a cluster, lost for real: the run ends with the bits of the run to which nothing happened.

Two hosts with a `ray start` each, two workers that average their gradients over the wire between them.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgray.training.run import RunFolder

Cluster = Any


def workers_of(cluster: Cluster, host: int) -> list[int]:
    """Process ids of the training workers on a host."""
    return [pid for pid, words in cluster.hosts.processes(host).items() if "RayTrainWorker" in words]


METADATA = """
import http.server, pathlib, sys

class Metadata(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        self.answer(200, "key")

    def do_GET(self):
        due = self.path == "/latest/meta-data/spot/instance-action" and pathlib.Path(sys.argv[1]).exists()
        allowed = self.headers["X-aws-ec2-metadata-token"] == "key"
        self.answer(200 if due and allowed else 404, '{"action": "terminate"}')

    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

http.server.HTTPServer(("169.254.169.254", 80), Metadata).serve_forever()
"""


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


@pytest.mark.slow
def test_a_lost_node_that_the_cluster_still_counts(cluster: Cluster) -> None:
    """The next start is planned for both nodes, and Ray puts all of it on the one that is left, where its workers
    find no CPU for Ray Data: the run plans again for what there is."""
    run, driver = cluster.drive("still-counted", backend="ray")
    cluster.await_step(run, 5, driver)
    (beside,) = workers_of(cluster, 0)
    cluster.hosts.crash(1)
    os.kill(beside, signal.SIGKILL)  # fails at once, whereas a node is missed a minute later
    cluster.finish(run, driver)
    cluster.hosts.boot(1)
    cluster.start(1)
    cluster.assert_frames(run)
    cluster.assert_equal(run, cluster.undisturbed())


@pytest.mark.slow
def test_a_worker_that_gets_sigterm_saves_and_leaves(cluster: Cluster) -> None:
    run, driver = cluster.drive("sigterm")
    cluster.await_step(run, 5, driver)
    (worker,) = workers_of(cluster, 1)
    os.kill(worker, signal.SIGTERM)
    cluster.finish(run, driver)
    trained = cluster.trained(run)
    assert len(np.unique(trained[:, 0])) == 4  # both workers left, and two began again
    assert len(trained) == 40 * cluster.config.training.batch_size  # each step was begun once
    cluster.assert_frames(run)
    cluster.assert_equal(run, cluster.undisturbed())


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_worker_of_the_data_is_killed(cluster: Cluster, wait_until: Any) -> None:
    run, driver = cluster.drive("data-killed", backend="ray")
    cluster.await_step(run, 5, driver)

    def tasks() -> list[int]:
        found = [cluster.hosts.processes(host).items() for host in range(2)]
        return [pid for of_host in found for pid, words in of_host if "MapBatches" in words]

    for pid in wait_until(tasks, "a task of Ray Data", driver):
        os.kill(pid, signal.SIGKILL)
    cluster.finish(run, driver)
    cluster.assert_frames(run)
    cluster.assert_equal(run, cluster.undisturbed())


@pytest.mark.slow
def test_a_spot_machine_is_taken_back(cluster: Cluster, tmp_path: Path, wait_until: Any) -> None:
    (tmp_path / "metadata.py").write_text(METADATA)
    run, driver = cluster.drive("spot")
    cluster.hosts.run(1, "ip addr add 169.254.169.254/32 dev lo")
    cluster.hosts.popen(1, f"exec python {tmp_path}/metadata.py {tmp_path}/notice")
    cluster.hosts.popen(1, "exec bash cluster/spot_notice.sh host-0:6379", tmp_path / "spot.log")
    cluster.await_step(run, 5, driver)
    assert "notice" not in (tmp_path / "spot.log").read_text()
    (tmp_path / "notice").touch()
    # The workers leave with a checkpoint before the machine is gone; nobody trains on a machine that is going.
    wait_until(lambda: not workers_of(cluster, 0) + workers_of(cluster, 1), "the workers to leave", driver)
    reached = steps_begun(run)
    assert (cluster.checkpoint(run, reached) / "complete").is_file()
    cluster.hosts.crash(1)
    cluster.hosts.boot(1)
    cluster.start(1)
    cluster.finish(run, driver)
    cluster.assert_frames(run)
    cluster.assert_equal(run, cluster.undisturbed())


@pytest.mark.slow
def test_the_head_is_started_again_between_runs(cluster: Cluster) -> None:
    run, driver = cluster.drive("head")
    cluster.await_step(run, 10, driver)
    cluster.hosts.crash(0)  # the head, and the driver on it
    assert driver.wait(60) != 0
    cluster.hosts.boot(0)
    cluster.start(0)
    cluster.hosts.run(1, "ray stop --force")
    cluster.start(1)
    run, driver = cluster.drive("head")
    cluster.finish(run, driver)
    cluster.assert_frames(run)
    cluster.assert_equal(run, cluster.undisturbed())
