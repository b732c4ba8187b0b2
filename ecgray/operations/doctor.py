"""``ecgray doctor``: is everything there that a run needs? One check at a time, and what mends it.

Disks: Ray stops at 95 % (its ``local_fs_capacity_threshold``). Clocks: signatures of requests to S3 count for a quarter
of an hour, and times in logs and metrics should compare. Tokens: the cluster is asked something without one. Ports: the
token does not cover metrics, and dashboard and client are meant to be reached through ssh. Cores: Ray announces all of
the machine's, also where a process may not use them all.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from ecgray.cluster import long_folder
from ecgray.errors import EcgrayError
from ecgray.operations import probe
from ecgray.operations.checks import Check, State, one_line, verdict
from ecgray.operations.machines import Alone, Machines, connect
from ecgray.operations.storage_check import check_storage

DISK_WARN, DISK_FAIL = 0.90, 0.95
"""Shares in use."""
SKEW_WARN_S, SKEW_FAIL_S = 1.0, 60.0
Faults = list[tuple[State, str, str]]


def examine(storage: str) -> Iterator[Check]:
    """The checks, each as soon as it is done. ``storage``: a folder or URL that runs or shards are meant for."""
    yield check_versions()
    try:
        with connect() as machines:
            alone = isinstance(machines, Alone)
            checks: dict[str, Callable[[], Check]] = {
                "cluster": partial(_check_cluster, machines),
                "processor": partial(_check_processors, machines),
                "gpu": partial(_check_gpus, machines),
                "all-reduce": partial(_check_all_reduce, machines),
                "storage": partial(check_storage, storage, machines.read_on_nodes),
                "disk": partial(_check_disks, machines),
                "clock": partial(_check_clocks, machines),
                "token": check_own_token if alone else check_cluster_token,
                "ports": partial(_check_ports, machines),
            }
            if alone:
                checks["sockets"] = check_sockets
            for name, check in checks.items():
                try:
                    yield check()
                except Exception as error:  # one check that breaks must not hide the others
                    yield Check(name, "fail", one_line(error), "Look at the logs of Ray under its temporary folder.")
    except EcgrayError as error:
        found, _, remedy = str(error).partition("; ")
        yield Check("cluster", "fail", found, remedy[:1].upper() + remedy[1:])
        yield check_storage(storage)


def check_versions() -> Check:
    """What is installed, against the package's requirements and, in a checkout, against constraints.txt."""
    faults: Faults = []
    for text in importlib.metadata.requires("ecgray") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _installed(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            found = f"{requirement.name} must be {requirement.specifier or 'installed'}, got {installed or 'none'}"
            faults.append(("fail", found, "Install ecgray again with its constraints (make install)."))
    constraints = Path(__file__).parents[2] / "constraints.txt"
    against = "as its requirements ask"
    if constraints.is_file():
        against = "as constraints.txt pins them"
        others = [pin for pin in constraints.read_text(encoding="utf-8").splitlines() if not _meets(pin)]
        if others:
            got = ", ".join(f"{pin} ({_installed(Requirement(pin).name)})" for pin in others[:4])
            more = f" and {len(others) - 4} more" if len(others) > 4 else ""
            remedy = "What was tested is pip install -c constraints.txt."
            faults.append(("warn", f"other versions than constraints.txt: {got}{more}", remedy))
    named = ", ".join(f"{name} {_installed(name)}" for name in ("ecgray", "ray", "torch", "numpy"))
    return verdict("versions", f"{named}: {against}", faults)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _meets(pin: str) -> bool:
    """Whether a line of constraints is met; what is not installed meets any. A local part (+cpu) does not count."""
    try:
        requirement = Requirement(re.sub(r"\s+#.*", "", pin))
    except InvalidRequirement:
        return True
    installed = _installed(requirement.name)
    return installed is None or requirement.specifier.contains(installed.partition("+")[0], prereleases=True)


def _check_cluster(machines: Machines) -> Check:
    faults: Faults = []
    here = probe.versions()
    for name in machines.lost:
        faults.append(("warn", f"node {name} is lost", "Start it again, or let the autoscaler."))
    for node in machines.nodes:
        if isinstance(node.facts, Exception):
            remedy = "Look at its raylet's log; restart it with ray stop and ray start."
            faults.append(("fail", f"node {node.name} does not answer ({one_line(node.facts)})", remedy))
            continue
        versions = node.facts["versions"]
        differing = [f"{key} {value}" for key, value in versions.items() if value != here[key]]
        missing = [key for key, value in versions.items() if value == "missing"]
        if differing or missing:
            text = f"node {node.name} has {', '.join(differing or [f'no {key}' for key in missing])}"
            remedy = "Install the same versions on all nodes, with the constraints."
            faults.append(("fail", text, remedy))
    total = {
        key: sum(node.resources.get(key, 0.0) for node in machines.nodes)
        for key in ("CPU", "GPU", "memory", "object_store_memory")
    }
    parts = [f"CPUs {total['CPU']:g}", f"GPUs {total['GPU']:g}", f"{total['memory'] / 1e9:.1f} GB of memory"]
    if total["object_store_memory"]:
        parts.append(f"{total['object_store_memory'] / 1e9:.1f} GB of object store")
    where = "no cluster, this machine" if isinstance(machines, Alone) else f"nodes {len(machines.nodes)}"
    values = {"nodes": len(machines.nodes), "lost": len(machines.lost)} | total
    return verdict("cluster", f"{where}, {', '.join(parts)}", faults, values)


def _check_processors(machines: Machines) -> Check:
    faults: Faults = []
    found = {}
    for name, has in machines.processors().items():
        if isinstance(has, Exception):
            text = f"node {name} does not tell its cores ({one_line(has)})"
            faults.append(("warn", text, "Install the same ecgray on all nodes."))
        else:
            found[name] = has
    for node in machines.nodes:
        announced = node.resources.get("CPU", 0.0)
        if node.name in found and announced > found[node.name]["cores"]:
            has = found[node.name]
            text = f"node {node.name} announces {announced:g} CPUs and may use {has['cores']}{_fewer(has)}"
            faults.append(("warn", text, f"Start it with ray start --num-cpus={has['cores']}."))
    total = sum(has["cores"] for has in found.values())
    if isinstance(machines, Alone):
        well = f"cores {total}{_fewer(found['this machine'])}; a run takes {total} thread{'' if total == 1 else 's'}"
    else:
        well = f"cores {total} on {len(found)} nodes; the workers on each share its cores out as threads"
    if all(has["fast_bf16"] for has in found.values()) and not any(node.gpus for node in machines.nodes):
        well += "; the processor has bf16 instructions: try --training.precision bf16"
    return verdict("processor", well, faults, {"nodes": found})


def _fewer(has: dict[str, Any]) -> str:
    """Why a process has fewer cores than its machine; nothing where it has them all."""
    if has["cores"] >= has["cpus"]:
        return ""
    by = [f"affinity: {has['affinity']}"] if has["affinity"] < has["cpus"] else []
    by += [f"quota of its control group: {has['quota']:g}"] if has["quota"] is not None else []
    return f" of the machine's {has['cpus']} ({', '.join(by)})"


def _check_gpus(machines: Machines) -> Check:
    faults: Faults = []
    seen = machines.torch_sees()
    for name, sees in seen.items():
        if isinstance(sees, TimeoutError):
            faults.append(("warn", f"no GPU of {name} is free", "Run the doctor when nothing trains."))
        elif isinstance(sees, Exception):
            remedy = "Mend the driver, or install the PyTorch build for its CUDA version."
            faults.append(("fail", f"a GPU of {name} does not work ({one_line(sees)})", remedy))
        elif not sees["gpus"]:
            build = f"built for CUDA {sees['cuda']}" if sees["cuda"] else "a build for CPUs"
            remedy = "Install the driver and a PyTorch build for CUDA there, or start the node with --num-gpus 0."
            faults.append(("fail", f"{name} announces GPUs and PyTorch ({build}) sees none", remedy))
    if not seen and shutil.which("nvidia-smi"):
        remedy = "Install the PyTorch build for CUDA, or mend the driver."
        faults.append(("warn", "nvidia-smi is here and PyTorch sees no GPU", remedy))
    found = ", ".join(f"{s['name']} (CUDA {s['cuda']}, NCCL {s['nccl']})" for s in seen.values() if isinstance(s, dict))
    return verdict("gpu", found or "none, training runs on CPUs", faults)


def _check_all_reduce(machines: Machines) -> Check:
    try:
        measured = machines.all_reduce()
    except Exception as error:  # what torch, gloo, NCCL or Ray raise is the finding
        remedy = (
            "The hosts' names must resolve to addresses at which they reach each other, on all ports; name the "
            "interface with GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME where there are several."
        )
        return Check("all-reduce", "fail", one_line(error), remedy)
    nodes = sum(not isinstance(node.facts, Exception) for node in machines.nodes)
    between = f"{nodes} nodes" if nodes > 1 else "two processes of one machine"
    if measured["bus_bytes_per_s"] is None:
        return Check(
            "all-reduce", "ok", f"{measured['backend']} works in one process, as many as GPUs", values=measured
        )
    rate = f"{measured['bus_bytes_per_s'] / 1e9:.2f} GB/s"
    return Check("all-reduce", "ok", f"{measured['backend']} between {between}: {rate} bus bandwidth", values=measured)


def _check_disks(machines: Machines) -> Check:
    faults: Faults = []
    least, where = float("inf"), ""
    for node in machines.nodes:
        if isinstance(node.facts, Exception):
            continue
        for path, (total, used, free) in node.facts["disks"].items():
            share = used / max(used + free, 1) if total else 0.0
            if free < least:
                least, where = free, f"{path} on {node.name}"
            if share >= DISK_WARN:
                state: State = "fail" if share >= DISK_FAIL else "warn"
                text = f"{path} on {node.name} is {share:.0%} full, {free / 1e9:.1f} GB left"
                faults.append((state, text, "Free some space, or move Ray's files with RAY_TMPDIR; it stops at 95 %."))
    return verdict("disk", f"{least / 1e9:,.0f} GB free at least ({where})", faults, {"least_free_bytes": least})


def _check_clocks(machines: Machines) -> Check:
    if len(machines.nodes) < 2:
        return Check("clock", "ok", "one machine, one clock")
    offsets = machines.clock_offsets()
    faults: Faults = []
    for name, offset in offsets.items():
        if abs(offset) >= SKEW_WARN_S:
            state: State = "fail" if abs(offset) >= SKEW_FAIL_S else "warn"
            text = f"{name} is {abs(offset):,.1f} s {'ahead of' if offset > 0 else 'behind'} this machine"
            faults.append((state, text, "Run chrony or systemd-timesyncd on all nodes."))
    widest = max((abs(offset) for offset in offsets.values()), default=0.0)
    return verdict("clock", f"within {max(widest, 0.001):.3f} s of this machine's", faults, {"offsets_s": offsets})


def check_sockets() -> Check:
    """Room for the sockets of a cluster that would be started here: their paths begin with its temporary folder."""
    found = long_folder()
    if found is None:
        return Check("sockets", "ok", "their paths are short enough, if a run starts Ray here")
    text = f"{found[0]} leaves Ray's sockets too long a path: no dashboard, or no cluster, can be started here"
    return Check("sockets", "warn", text, f"{found[1][:1].upper()}{found[1][1:]}.")


TOKEN_REMEDY = (
    "Start Ray with RAY_AUTH_MODE=token and one token on all nodes (ray get-auth-token --generate; its file is "
    "~/.ray/auth_token)."
)


def check_own_token() -> Check:
    """Clusters that would be started from here."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return Check("token", "fail", "RAY_AUTH_MODE=disabled: clusters started here are open", TOKEN_REMEDY)
    return Check("token", "ok", "clusters started here by a run ask for a token")


def check_cluster_token() -> Check:
    """Asks the cluster for its id, without a token."""
    import grpc  # type: ignore[import-untyped]
    import ray
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    address = ray.get_runtime_context().gcs_address
    with grpc.insecure_channel(address) as channel:
        try:
            stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            stub.GetClusterId(gcs_service_pb2.GetClusterIdRequest(), timeout=10)  # type: ignore[attr-defined]
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return Check("token", "ok", f"{address} turns away who has none")
            remedy = "Look at what stands between; with TLS, ask with ray status and no token."
            return Check("token", "warn", f"{address} could not be asked ({error.code().name})", remedy)
    return Check("token", "fail", f"{address} answers to anybody: whoever reaches it can run code", TOKEN_REMEDY)


def _check_ports(machines: Machines) -> Check:
    listeners = [
        (service, address, port, node.name)
        for node in machines.nodes
        if not isinstance(node.facts, Exception)
        for service, address, port in node.facts["listeners"]
    ]
    outside: dict[str, set[str]] = {}
    for service, address, port, _ in listeners:
        if not probe.is_loopback(address):
            outside.setdefault(service, set()).add(f"{address}:{port}")
    faults: Faults = []
    for service, places in outside.items():
        state: State = "fail" if service == "dashboard" else "warn"
        remedy = "Start Ray with --dashboard-host=127.0.0.1; look at it through ray dashboard or ssh -L."
        if service != "dashboard":
            remedy = "Close metrics and client ports with a firewall or security group: no token covers metrics."
        more = f" and {len(places) - 2} more" if len(places) > 2 else ""
        faults.append((state, f"{service} on {', '.join(sorted(places)[:2])}{more}", remedy))
    well = (
        f"{len(listeners)} for dashboard, client and metrics, on loopback alone" if listeners else "none of Ray is open"
    )
    return verdict("ports", well, faults, {"listeners": listeners})
