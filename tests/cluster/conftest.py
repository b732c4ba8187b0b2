"""Two machines with a Ray cluster on them, and runs that are disturbed there."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ecgray.config import to_dict
from ecgray.sampling.plan import make_plan
from ecgray.shards.archive import open_archive
from ecgray.training.config import PretrainConfig
from ecgray.training.model_folder import load_tensors
from ecgray.training.run import RunFolder

PATIENCE_S = 900.0
"""No wait here is a measurement: a machine with other things to do may take long."""
START = "ray start --num-cpus=1 --object-store-memory=150000000 --disable-usage-stats --node-ip-address=$(hostname -i)"


def wait_until(true: Callable[[], Any], what: str, process: subprocess.Popen[bytes] | None = None) -> Any:
    """What ``true`` gives once it gives something; fails when it does not, or ``process`` ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        if process is not None and process.poll() is not None:
            pytest.fail(f"the run ended ({process.returncode}) before {what}")
        time.sleep(0.05)
    pytest.fail(f"waited {PATIENCE_S:g} s in vain for {what}")


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture(scope="session")
def hosts_module() -> ModuleType:
    """tests/cluster/hosts.py; tests are no package, so that it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("hosts", Path(__file__).with_name("hosts.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hosts"] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class Cluster:
    """Hosts 0 (with the head and the driver) and 1, and runs on them."""

    hosts: Any
    config: PretrainConfig
    root: Path
    whole: dict[str, RunFolder] = field(default_factory=dict)

    def start(self, host: int) -> None:
        """`ray start` on a host; again where it gave up after its fixed 30 s, as it does on a busy machine."""
        role = "--head --port=6379 --include-dashboard=false" if host == 0 else ""
        for attempt in range(5):
            said = self.hosts.run(host, f"{START} {role or '--address=host-0:6379'}", timeout=PATIENCE_S, check=False)
            if "Ray runtime started" in said:
                return
            assert "timed out during startup" in said, (attempt, said)
            self.hosts.run(host, "ray stop --force", timeout=PATIENCE_S)
        pytest.fail(f"Ray did not start on {self.hosts.name(host)}")

    def drive(
        self, name: str, workers: int | tuple[int, int] = 2, backend: str = "local", step_seconds: float = 0.2
    ) -> tuple[RunFolder, subprocess.Popen[bytes]]:
        """Start (or go on with) a run on the head."""
        run = RunFolder(self.root / name)
        given = {"config": to_dict(self.config), "out": str(run.path), "workers": workers, "backend": backend}
        words = json.dumps(given | {"step_seconds": step_seconds})
        command = f"RAY_ADDRESS=auto exec python {Path(__file__).with_name('drive.py')} '{words}'"
        return run, self.hosts.popen(0, command, self.root / f"{name}.log")

    def finish(self, run: RunFolder, driver: subprocess.Popen[bytes]) -> None:
        said = lambda: (self.root / f"{run.path.name}.log").read_text()[-4000:]  # noqa: E731
        assert driver.wait(PATIENCE_S) == 0, said()

    def undisturbed(self, backend: str = "local") -> RunFolder:
        """The run of two workers on two nodes to which nothing happens; made once."""
        if backend not in self.whole:
            run, driver = self.drive(f"whole-{backend}", backend=backend, step_seconds=0.0)
            self.finish(run, driver)
            self.whole[backend] = run
        return self.whole[backend]

    def await_step(self, run: RunFolder, step: int, driver: subprocess.Popen[bytes]) -> None:
        wait_until(lambda: (self.checkpoint(run, step) / "complete").is_file(), f"step {step}", driver)

    def checkpoint(self, run: RunFolder, step: int) -> Path:
        return run.checkpoints / f"step-{step:06d}"

    def assert_equal(self, run: RunFolder, other: RunFolder) -> None:
        """Weights, optimiser and every rank's statistics and random state after the last step, to the bit."""
        for file in ("model", "optimiser", "rank-0", "rank-1"):
            one, two = (
                load_tensors(self.checkpoint(r, self.config.training.steps or 0) / f"{file}.safetensors")
                for r in (run, other)
            )
            assert one.keys() == two.keys()
            assert all(one[key].equal(two[key]) for key in one), file

    def trained(self, run: RunFolder) -> Any:
        """What the run's workers began to train on, in any order: rows of (start, step, workers, record, start)."""
        files = sorted(Path(f"{run.path}.frames").iterdir())
        return np.concatenate([np.loadtxt(file, delimiter=",", ndmin=2) for file in files])

    def assert_frames(self, run: RunFolder) -> list[int]:
        """Every step of the run's history was trained on the plan's frames, each once; returns the workers by step.

        A step that was done again after a loss counts as it was done last.
        """
        rows = self.trained(run)
        archive = open_archive(self.config.data.shards)
        plan = make_plan(archive, self.config.sampling, self.config.task, self.config.training.batch_size)
        workers = []
        for step in range(self.config.training.steps or 0):
            of_step = rows[rows[:, 1] == step]
            # Workers of one start begin at most seconds apart, and starts are longer than that.
            last = of_step[of_step[:, 0] > of_step[:, 0].max() - 5.0]
            planned = np.stack(plan.frames(step, step + 1, range(plan.sampling.lanes)), 1)
            taken = last[:, 3:].astype(int)
            assert sorted(map(tuple, taken.tolist())) == sorted(map(tuple, planned.tolist())), step
            workers.append(int(last[0, 2]))
        return workers


@pytest.fixture(scope="session")
def cluster_config(make_config: Callable[..., PretrainConfig]) -> PretrainConfig:
    """40 steps of 16 short frames, a checkpoint every 5."""
    return make_config(steps=40, validate_every=20, checkpoint_every=5, log_every=1, keep_checkpoints=50)


@pytest.fixture(scope="module")
def cluster(
    hosts_module: ModuleType, cluster_config: PretrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster of two hosts, closed by a token."""
    hosts_module.require()
    root = tmp_path_factory.mktemp("cluster")
    token = root / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "COVERAGE_PROCESS_START": os.environ.get("COVERAGE_PROCESS_START", ""),
    }
    with hosts_module.Hosts(root / "hosts", 2, environment=environment) as hosts:
        made = Cluster(hosts, replace(cluster_config), root)
        for host in range(2):
            made.start(host)
        yield made
