"""What one machine knows of itself. Runs on every node, sent there as it is: nodes on which ecgray is missing are found
by it, so that it imports nothing of ecgray.
"""

from __future__ import annotations

import importlib.metadata
import ipaddress
import os
import platform
import shutil
import socket
import time
from collections.abc import Sequence
from typing import Any

COMPARED = ("ecgray", "ray", "torch", "numpy", "pyarrow")
"""Packages that must be the same on all nodes: they read what each other wrote."""

SERVICES = {
    "dashboard/dashboard.py": "dashboard",
    "autoscaler/_private/monitor.py": "autoscaler metrics",
    "ray.util.client.server": "client",
    "ray::DashboardAgent": "node metrics",
}
"""Command of a process of Ray -> what it serves to people and programs outside."""

DASHBOARD_METRICS_PORT = 44227


def facts(paths: Sequence[str], metrics_port: int | None = None) -> dict[str, Any]:
    """Host, clock, versions, free disk under ``paths`` (those that exist), and which services of Ray listen where."""
    disks = {path: tuple(shutil.disk_usage(path))[:3] for path in paths if os.path.isdir(path)}
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "versions": versions(),
        "disks": disks,
        "listeners": listeners(metrics_port),
        "time": time.time(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that must be the same on all nodes."""
    found = {"python": platform.python_version()}
    for name in COMPARED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def clock() -> float:
    """Seconds since the epoch, here."""
    return time.time()


def listeners(metrics_port: int | None) -> list[tuple[str, str, int]]:
    """(service, address, port) of Ray's dashboard, client and metrics servers that listen beyond loopback or on it.

    Of the agent's ports only ``metrics_port`` is one for people. Processes of other users are not seen.
    """
    import psutil

    found = []
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or connection.pid is None:
            continue
        try:
            command = " ".join(psutil.Process(connection.pid).cmdline())
        except psutil.Error:
            continue
        service = next((name for part, name in SERVICES.items() if part in command), None)
        address, port = connection.laddr
        if service == "node metrics" and port != metrics_port:
            continue
        if service == "dashboard" and port == DASHBOARD_METRICS_PORT:
            service = "dashboard metrics"
        if service is not None:
            found.append((service, address.removeprefix("::ffff:"), port))
    return sorted(set(found))


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def torch_sees() -> dict[str, Any]:
    """What PyTorch makes of the GPUs that this process may use."""
    import torch

    usable = torch.cuda.is_available()
    if usable:
        torch.ones(1, device="cuda").sum().item()  # a driver that is too old fails here
    return {
        "gpus": torch.cuda.device_count() if usable else 0,
        "name": torch.cuda.get_device_name() if usable else "",
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if usable else "",
    }
