"""What a second machine costs, and what a lost worker costs, on machines made of network namespaces (Linux, root).

    python benchmarks/two_nodes.py SHARDS --out DIR [--steps 600]

CPU seconds of all processes of a cluster (Ray's, the driver's, the workers') from the start of a run to its end, with
two workers on one node of two cores and with one worker on each of two nodes of one core: the same steps and frames.
Then the run on one node with one worker killed: seconds from the kill to the next new step, and steps done twice.
Counted by a control group, so that processes that came and went are counted too. Figures go to DIR/two_nodes.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecgray.training.run import RunFolder

HOSTS = Path(__file__).parents[1] / "tests" / "cluster" / "hosts.py"


def load_hosts() -> Any:
    spec = importlib.util.spec_from_file_location("hosts", HOSTS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hosts"] = module
    spec.loader.exec_module(module)
    return module


class Meter:
    """CPU seconds of all that this process starts from now on: it moves into a control group of its own."""

    def __init__(self, name: str) -> None:
        root = Path("/sys/fs/cgroup")
        self._old = (root / "cpuacct").is_dir()
        self._group = (root / "cpuacct" if self._old else root) / name
        self._group.mkdir(exist_ok=True)
        (self._group / "cgroup.procs").write_text(str(os.getpid()))

    def __call__(self) -> float:
        if self._old:
            return int((self._group / "cpuacct.usage").read_text()) / 1e9
        return int((self._group / "cpu.stat").read_text().split()[1]) / 1e6


@contextmanager
def cluster(module: Any, root: Path, cores: list[int]) -> Iterator[Any]:
    """A host with a `ray start` for each entry of ``cores``."""
    with module.Hosts(root, len(cores), environment={"RAY_USAGE_STATS_ENABLED": "0"}) as hosts:
        for host, count in enumerate(cores):
            role = "--head --port=6379 --include-dashboard=false" if host == 0 else "--address=host-0:6379"
            words = f"--num-cpus={count} --object-store-memory=500000000 --node-ip-address=$(hostname -i)"
            hosts.run(host, f"ray start {role} {words}")
        yield hosts


def start(hosts: Any, shards: Path, run: RunFolder, steps: int) -> subprocess.Popen[bytes]:
    words = [
        "RAY_ADDRESS=auto exec python -m ecgray pretrain weimann2021_beat",
        f"--data {shards} --out {run.path} --workers 2 --model.width 16 --sampling.val-fraction 0.2",
        f"--training.steps {steps} --training.checkpoint-every 50 --training.validate-every {steps}",
        "--training.log-every 1 --training.threads 1",
    ]
    return hosts.popen(0, " ".join(words), Path(f"{run.path}.log"))


def last_step(run: RunFolder) -> int:
    lines = run.read_metrics()
    return int(lines[-1]["step"]) if lines else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    module, meter = load_hosts(), Meter(f"ecgray-two-nodes-{os.getpid()}")
    found: dict[str, Any] = {"steps": given.steps, "load": os.getloadavg()}
    for name, cores in (("one node", [2]), ("two nodes", [1, 1])):
        with cluster(module, given.out / f"hosts-{len(cores)}", cores) as hosts:
            for steps in (given.steps // 3, given.steps):  # the difference is of steps alone, without the start
                run = RunFolder(given.out / f"run-{len(cores)}-{steps}")
                before, begun = meter(), time.monotonic()
                if start(hosts, given.shards.absolute(), run, steps).wait():
                    sys.exit(Path(f"{run.path}.log").read_text())
                found[f"{name}, {steps} steps, CPU s"] = meter() - before
                found[f"{name}, {steps} steps, s"] = time.monotonic() - begun
            if len(cores) == 1:
                found |= lose_a_worker(hosts, given.shards.absolute(), RunFolder(given.out / "killed"), given.steps)
        print(json.dumps(found, indent=2), flush=True)
    one, two = (found[f"{name}, {given.steps} steps, CPU s"] for name in ("one node", "two nodes"))
    found["two nodes over one, CPU s"] = two / one
    (given.out / "two_nodes.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def lose_a_worker(hosts: Any, shards: Path, run: RunFolder, steps: int) -> dict[str, Any]:
    driver = start(hosts, shards, run, steps)
    while last_step(run) < steps // 2 + 20:
        time.sleep(0.05)
    workers = [pid for pid, words in hosts.processes(0).items() if "RayTrainWorker" in words]
    os.kill(workers[-1], signal.SIGKILL)
    killed, reached, file = time.monotonic(), last_step(run), run.metrics.stat().st_ino
    while run.metrics.stat().st_ino == file:  # a run that goes on writes the metrics up to there anew
        time.sleep(0.02)
    again = last_step(run)
    while last_step(run) <= again:
        time.sleep(0.02)
    seconds = time.monotonic() - killed
    if driver.wait():
        sys.exit(Path(f"{run.path}.log").read_text())
    return {"killed after step": reached, "went on from step": again, "s from the kill to the next step": seconds}


if __name__ == "__main__":
    main()
