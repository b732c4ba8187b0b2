"""The way into a Ray cluster, or the one line that says why there is none."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import psutil

from ecgray.control_groups import memory_limit
from ecgray.errors import EcgrayError
from ecgray.processor import cores

STORE_SHARE, LEAST_STORE_BYTES = 0.3, 75 << 20
"""Of the memory there is for the object store: what Ray takes of a machine's, and the least that it accepts."""
SOCKET_BYTES = 107
"""The longest path of a socket on Linux."""
LONGEST = "/ray/session_2026-01-31_12-00-00_000000_4194304/sockets/dash_MetricsHead"
"""What Ray puts below its temporary folder: without this one's room there is no dashboard, with 4 bytes less no Ray."""


@contextlib.contextmanager
def connected(*, cpus: int | None = None, quiet: bool = False) -> Iterator[None]:
    """A connection to a cluster: the one there is, the one that RAY_ADDRESS names, or one made (and ended) here.

    ``cpus``: of one made here, None for all the cores that this process may use. ``quiet``: without a dashboard, and
    without what the workers print. Raises EcgrayError: see ``join``.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"logging_level": logging.WARNING}
    if quiet:
        options = {"logging_level": logging.ERROR, "include_dashboard": False, "log_to_driver": False}
    if address:
        join(address, **options)
    else:
        _join_here(cpus or cores(), **options)
    try:
        yield
    finally:
        ray.shutdown()


def _join_here(cpus: int, **options: Any) -> None:
    """The cluster that ``ray start`` has begun on this machine, else one made here: Ray tells which by refusing
    ``num_cpus``. Left to itself it counts the cores of the machine, also those that this process may not use, and takes
    its share of the machine's memory where the control group of a job allows less."""
    limit, bound = memory_limit(), {}
    if limit < psutil.virtual_memory().total:
        bound["object_store_memory"] = max(int(STORE_SHARE * limit), LEAST_STORE_BYTES)
    try:
        join(None, dashboard_host="127.0.0.1", num_cpus=cpus, **bound, **options)
    except EcgrayError as error:
        found = long_folder()
        if found is not None and "AF_UNIX" in str(error.__cause__):
            raise EcgrayError(f"Ray's sockets must have a short path, got {found[0]}; {found[1]}.") from error
        if not isinstance(error.__cause__, ValueError):
            raise
        join(None, **options)


def long_folder() -> tuple[str, str] | None:
    """(what was found, what to do) where the temporary folder of a cluster made here is too long for Ray's sockets,
    whose paths begin with it; None where it is not."""
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)  # in Ray's order
    if variable is None or len(os.fsencode(os.environ[variable])) + len(LONGEST) <= SOCKET_BYTES:
        return None
    folder = os.environ[variable]
    found = f"{variable}={folder} of {len(os.fsencode(folder))} bytes"
    return found, f"set RAY_TMPDIR to a folder of at most {SOCKET_BYTES - len(LONGEST)} bytes, such as /tmp"


def join(address: str | None, **options: Any) -> Any:
    """``ray.init``. Raises EcgrayError when ``address`` leads nowhere (at once, where Ray would try for minutes), when
    the cluster refuses this process or runs another version of Ray or Python."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    host, _, port = (address or "").rpartition("/")[2].rpartition(":")
    try:
        if port.isdigit() and not ray.is_initialized():
            socket.create_connection((host, int(port)), timeout=5).close()
        return ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError, OverflowError, ray.exceptions.RayError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
        raise EcgrayError(
            f"The cluster at {address or 'this machine'} must let this process in, got: {reason}; start it, or unset "
            "RAY_ADDRESS; with token authentication give RAY_AUTH_MODE=token and the cluster's own token."
        ) from error
