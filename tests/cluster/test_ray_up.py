"""The way of README's "From laptop to cluster" on machines reached by ssh: up, submit, a node lost, finished, down.

Four hosts: head and worker of the cluster, the laptop that starts it, and a stranger in the same network.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from ecgray.training.checkpoint import newest_checkpoint
from ecgray.training.run import RunFolder

REPOSITORY = Path(__file__).parents[2]
HEAD, WORKER, LAPTOP, STRANGER = range(4)
PATIENCE_S = 900.0
pytestmark = pytest.mark.slow


@pytest.fixture
def machines(hosts_module: ModuleType, tmp_path: Path) -> Iterator[Any]:
    hosts_module.require(ssh=True)
    root = tmp_path / "hosts"
    with hosts_module.Hosts(root, 4, ssh=True, environment={"TMPDIR": str(tmp_path), "PYTHONPATH": ""}) as hosts:
        for host in (HEAD, WORKER):
            (hosts.folder(host) / "home" / "venv").symlink_to(Path(hosts_module.sys.prefix))
            (hosts.folder(host) / "home" / ".bashrc").touch()
        yield hosts


def own_machines(hosts: Any, file: Path) -> Path:
    """cluster/own-machines.yaml with these addresses; what installs is left out, since it is installed already."""
    settings = yaml.safe_load((REPOSITORY / "cluster" / "own-machines.yaml").read_text())
    head, worker = hosts.address(HEAD), hosts.address(WORKER)
    settings["provider"] |= {"head_ip": head, "worker_ips": [worker]}
    settings |= {"min_workers": 1, "max_workers": 1}
    settings["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.root / "key")}
    commands = [word for word in settings["setup_commands"] if "pip install" not in word]
    firewall = re.compile(r"sudo bash (\S+) [\d. ]+")
    settings["setup_commands"] = [firewall.sub(rf"bash \1 {head} {worker}", word) for word in commands]
    assert any(f"firewall.sh {head} {worker}" in word for word in settings["setup_commands"])
    file.write_text(yaml.safe_dump(settings))
    return file


def reached(hosts: Any, of: int, seen_from: int) -> list[int]:
    """TCP ports of one host, among those that something listens on, that another can connect to."""
    said = hosts.run(of, "ss -Hltn | awk '{print $4}'")
    ports = {int(line.rpartition(":")[2]) for line in said.split()}
    script = (
        "import socket, sys\n"
        "for port in map(int, sys.argv[2:]):\n"
        "    try:\n"
        "        socket.create_connection((sys.argv[1], port), 2).close()\n"
        "        print(port)\n"
        "    except OSError:\n"
        "        pass\n"
    )
    words = f"python -c '{script}' {hosts.address(of)} {' '.join(map(str, sorted(ports)))}"
    return [int(port) for port in hosts.run(seen_from, words).split()]


def test_from_laptop_to_cluster(machines: Any, small_archive: Path, tmp_path: Path, wait_until: Any) -> None:
    hosts, settings = machines, own_machines(machines, tmp_path / "cluster.yaml")

    def laptop(command: str, check: bool = True) -> str:
        return hosts.run(LAPTOP, f"RAY_UP_enable_autoscaler_v2=0 {command}", timeout=PATIENCE_S, check=check)

    laptop("ray get-auth-token --generate")
    for _ in range(5):  # `ray start` gives up after its fixed 30 s on a machine with much to do
        said = laptop(f"ray up -y {settings}", check=False)
        if "timed out during startup" not in said:
            break
    assert "Failed to setup head node" not in said, said[-4000:]
    forwarding = hosts.popen(LAPTOP, f"exec ray dashboard {settings}", tmp_path / "dashboard.log")
    token = (hosts.folder(LAPTOP) / "home" / ".ray" / "auth_token").read_text().strip()
    ask = "curl -s -o /dev/null -w %{http_code} http://localhost:8265/api/version"
    wait_until(lambda: laptop(f"{ask} -H 'Authorization: Bearer {token}'", check=False) == "200", "the dashboard")
    assert laptop(ask, check=False) == "401"
    nodes = "RAY_AUTH_MODE=token ray list nodes --address http://localhost:8265 --format json --filter state=ALIVE"

    def alive() -> int:
        said = laptop(nodes, check=False)
        return len(json.loads(said[said.index("[") :])) if "[" in said else 0

    wait_until(lambda: alive() == 2, "both nodes")
    for host in (HEAD, WORKER):
        assert reached(hosts, host, STRANGER) == [22]
    assert 6379 in reached(hosts, HEAD, WORKER)

    run = RunFolder(tmp_path / "run")
    words = [
        f"python jobs/submit.py pretrain weimann2021_beat --data {small_archive} --out {run.path} --workers 2",
        "--model.width 8 --sampling.frame-size 256 --sampling.frames-per-visit 16 --sampling.pool-patients 3",
        "--sampling.val-fraction 0.25 --training.steps 1500 --training.batch-size 16 --training.checkpoint-every 50",
        "--training.validate-every 750 --training.threads 1",
    ]
    job = hosts.popen(LAPTOP, " ".join(words), tmp_path / "job.log")
    wait_until(lambda: newest_checkpoint(run.checkpoints), "a checkpoint", job)
    environment = json.loads(run.environment.read_text())
    assert environment["host"] == hosts.name(HEAD) and environment["starts"][0]["workers"] == 2
    hosts.crash(WORKER)
    time.sleep(5)
    hosts.boot(WORKER)  # an empty machine: the cluster sets it up again by itself
    assert job.wait(PATIENCE_S) == 0, (tmp_path / "job.log").read_text()[-4000:]
    newest = newest_checkpoint(run.checkpoints)
    assert newest is not None and newest.name == "step-001500"

    laptop(f"ray down -y {settings}")
    forwarding.terminate()
    for host in (HEAD, WORKER):
        wait_until(lambda host=host: not _of_ray(hosts, host), f"the end of all processes on {hosts.name(host)}")


def _of_ray(hosts: Any, host: int) -> list[str]:
    return [words for words in hosts.processes(host).values() if re.search(r"ray|python", words)]
