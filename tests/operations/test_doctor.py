"""The doctor, at the bedside of machines and clusters that really are broken: every check that can fail does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecgray.cli import main
from ecgray.cluster import connected
from ecgray.errors import EcgrayError
from ecgray.operations import machines as machines_module
from ecgray.operations.all_reduce import measure_here
from ecgray.operations.doctor import _check_processors, check_own_token, check_sockets, check_versions
from ecgray.operations.machines import Alone, Cluster, Node
from ecgray.operations.storage_check import check_storage
from ecgray.processor import cores

PATIENCE_S = 300


def install(folder: Path, name: str, version: str) -> None:
    """A package as installers register it."""
    (folder / f"{name}-{version}.dist-info").mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(metadata)


def test_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_versions().state == "ok"
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "tqdm", "4.0.1")
    check = check_versions()
    assert check.state == "warn" and "(4.0.1)" in check.found and "constraints" in check.remedy
    install(tmp_path, "numpy", "1.26.0")
    check = check_versions()
    assert check.state == "fail" and "numpy must be >=2, got 1.26.0" in check.found and check.remedy


def test_storage(tmp_path: Path) -> None:
    good = check_storage(str(tmp_path))
    assert good.state == "ok" and good.values["write_bytes_per_s"] > 0 and good.values["read_bytes_per_s"] > 0
    assert not list(tmp_path.iterdir())
    assert check_storage(f"file://{tmp_path}").state == "ok"
    (tmp_path / "file").touch()
    for name, said in (("missing", "does not exist"), ("file", "is no folder")):
        bad = check_storage(str(tmp_path / name))
        assert bad.state == "fail" and bad.remedy and said in bad.found
    unknown = check_storage("nfs4711://server/share")
    assert unknown.state == "fail" and "nfs4711" in unknown.found


def test_storage_that_a_node_does_not_see(tmp_path: Path) -> None:
    check = check_storage(str(tmp_path), lambda place: {"10.0.0.7": FileNotFoundError(place)})
    assert check.state == "fail" and "is not seen on 10.0.0.7" in check.found and "mount it" in check.remedy
    check = check_storage(str(tmp_path), lambda place: {"10.0.0.7": "0" * 64})
    assert check.state == "fail" and "other bytes" in check.found


def test_all_reduce(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure_here()["bus_bytes_per_s"] > 0
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    with pytest.raises(RuntimeError, match="nowhere0"):
        measure_here()


def test_a_token_for_clusters_started_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert check_own_token().state == "ok"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert check_own_token().state == "fail" and "RAY_AUTH_MODE=token" in check_own_token().remedy


def test_a_cluster_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["doctor", "--storage", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "fail  cluster" in said.out and "127.0.0.1:1" in said.out and "unset RAY_ADDRESS" in said.out
    assert "ok    storage" in said.out and said.err.strip().count("\n") == 0 and "cluster" in said.err


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({"affinity": 64, "quota": None, "cores": 64}, "cores 64; a run takes 64 threads"),
        (
            {"affinity": 4, "quota": None, "cores": 4},
            "cores 4 of the machine's 64 (affinity: 4); a run takes 4 threads",
        ),
        (
            {"affinity": 64, "quota": 1.5, "cores": 1},
            "cores 1 of the machine's 64 (quota of its control group: 1.5); a run takes 1 thread",
        ),
        (
            {"affinity": 64, "quota": None, "cores": 64, "fast_bf16": True},
            "cores 64; a run takes 64 threads; the processor has bf16 instructions: try --training.precision bf16",
        ),
    ],
)
def test_the_cores_of_this_machine(monkeypatch: pytest.MonkeyPatch, here: dict[str, Any], said: str) -> None:
    monkeypatch.setattr(machines_module, "processor", lambda: {"cpus": 64, "fast_bf16": False} | here)
    machines = Alone.__new__(Alone)
    machines.nodes = [Node("", "this machine", {"CPU": float(here["cores"])}, {})]
    check = _check_processors(machines)
    assert (check.state, check.found) == ("ok", said)


def test_a_node_that_announces_more_than_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ray start does by itself under taskset. Another node has no ecgray: the check goes on without it."""
    has = {"cpus": 8, "affinity": 2, "quota": None, "cores": 2, "fast_bf16": False}
    machines = Cluster.__new__(Cluster)
    machines.nodes = [Node("1", "10.0.0.7", {"CPU": 8.0}, {}), Node("2", "10.0.0.8", {"CPU": 8.0}, {})]
    answers = {"10.0.0.7": has, "10.0.0.8": ModuleNotFoundError("No module named 'ecgray'")}
    monkeypatch.setattr(Cluster, "processors", lambda self: answers)
    check = _check_processors(machines)
    assert check.state == "warn" and "10.0.0.7 announces 8 CPUs and may use 2 of the machine's 8" in check.found
    assert "10.0.0.8 does not tell its cores (No module named 'ecgray')" in check.found
    assert "Start it with ray start --num-cpus=2." in check.remedy


def test_sockets_in_a_folder_with_a_long_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the doctor and a run say of it, and that what they advise is enough."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = tmp_path / ("folder-of-a-job-" * 5)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    check = check_sockets()
    assert check.state == "warn" and f"TMPDIR={long}" in check.found
    with pytest.raises(EcgrayError) as refused, connected(quiet=True):
        pass
    said = str(refused.value)
    assert said.startswith("Ray's sockets must have a short path") and "\n" not in said and "RAY_ADDRESS" not in said
    most = int(re.search(r"set RAY_TMPDIR to a folder of at most (\d+) bytes", said)[1])  # type: ignore[index]
    assert f"at most {most} bytes" in check.remedy
    monkeypatch.setenv("RAY_TMPDIR", "/" + "d" * (most - 1))
    assert check_sockets().state == "ok"
    monkeypatch.setenv("RAY_TMPDIR", "/" + "d" * most)
    assert check_sockets().state == "warn"


FULL = """
import sys
from ecgray.operations.doctor import _check_disks
from ecgray.operations.machines import Alone
from ecgray.operations.storage_check import check_storage
import dataclasses, json
checks = [_check_disks(Alone()), check_storage(".")]
print(json.dumps([dataclasses.asdict(check) for check in checks]))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """A small file system of its own, in a mount namespace that ends with the process."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=8m tmpfs "$1" && head -c 8000000 /dev/zero >"$1/full" && cd "$1" && exec "$2" -c "$3"'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(disk), sys.executable, FULL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("a small tmpfs cannot be mounted by this user")
    disks, storage = json.loads(done.stdout)
    assert disks["state"] == "fail" and f"{disk} on this machine is 95% full" in disks["found"] and disks["remedy"]
    assert storage["state"] == "fail" and "No space left" in storage["found"] and "free some space" in storage["remedy"]


AHEAD = """
import time
plain = time.time
time.time = lambda: plain() + 100.0
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A cluster of two nodes on this machine, open to all: a dashboard on every address, no token, a GPU that is not
    there, and a second node whose Python has a clock 100 s ahead and another pyarrow."""
    pytest.importorskip("ray")
    ahead = tmp_path_factory.mktemp("ahead")
    (ahead / "sitecustomize.py").write_text(AHEAD)
    install(ahead, "pyarrow", "1.0.0")
    sockets = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path is short
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(sockets)}
    environment.pop("RAY_ADDRESS", None)
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
    ray.append("--object-store-memory=100000000")
    head = [*ray, "--head", "--port=26379", "--num-gpus=1", "--dashboard-host=0.0.0.0", "--dashboard-port=28265"]
    head += ["--ray-client-server-port=20001", "--node-ip-address=127.0.0.1"]
    second = [*ray, "--address=127.0.0.1:26379", "--node-ip-address=127.0.0.1"]
    path = os.pathsep.join([str(ahead), *environment.get("PYTHONPATH", "").split(os.pathsep)])
    started = [
        start_node(command, environment | more, sockets / "log")
        for command, more in ((head, {}), (second, {"PYTHONPATH": path}))
    ]
    try:
        yield {"environment": environment | {"RAY_ADDRESS": "127.0.0.1:26379"}, "second": started[1]}
    finally:
        for process in started:
            stop_node(process)
        subprocess.run(["rm", "-rf", str(sockets)], check=True)


def start_node(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    before = log.read_text().count("Ray runtime started") if log.exists() else 0
    with log.open("a") as file:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    deadline = time.monotonic() + PATIENCE_S
    while log.read_text().count("Ray runtime started") <= before:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.2)
    return process


def stop_node(process: subprocess.Popen[bytes]) -> None:
    """All that ``ray start`` began: its session is one of its own."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_broken_cluster(broken: dict[str, Any], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ecgray", "doctor", "--storage", str(tmp_path), "--json"]
    done = subprocess.run(command, env=broken["environment"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    states = {name: check["state"] for name, check in checks.items()}
    assert states == {
        "versions": "ok",
        "cluster": "fail",
        "processor": "ok",
        "gpu": "fail",
        "all-reduce": "ok",
        "storage": "ok",
        "disk": states["disk"],  # this machine's own
        "clock": "fail",
        "token": "fail",
        "ports": "fail",
    }
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")
    assert "has pyarrow 1.0.0" in checks["cluster"]["found"] and checks["cluster"]["values"]["nodes"] == 2
    assert "on 2 nodes" in checks["processor"]["found"] and "bf16" not in checks["processor"]["found"]  # it has a GPU
    assert {has["cores"] for has in checks["processor"]["values"]["nodes"].values()} == {cores()}
    assert "announces GPUs and PyTorch" in checks["gpu"]["found"]
    ahead = sorted(checks["clock"]["values"]["offsets_s"].values())
    assert abs(ahead[0]) < 50 and 50 < ahead[1] < 150
    assert "answers to anybody" in checks["token"]["found"] and "token" in checks["token"]["remedy"]
    assert "dashboard on 0.0.0.0:28265" in checks["ports"]["found"]
    assert "cluster, gpu, clock, token, ports" in done.stderr.splitlines()[-1]


def test_a_node_that_is_lost(broken: dict[str, Any]) -> None:
    code = """
    import time
    from ecgray.operations.doctor import _check_cluster
    from ecgray.operations.machines import connect
    for attempt in range(60):
        with connect() as machines:
            check = _check_cluster(machines)
        if check.values["lost"]:
            break
        time.sleep(1)
    print(check.state, check.found, check.remedy)
    """
    os.killpg(broken["second"].pid, signal.SIGKILL)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=broken["environment"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    said = done.stdout.splitlines()[-1]  # after what Ray prints of it
    assert said.startswith("warn node ") and "is lost" in said, done.stderr
