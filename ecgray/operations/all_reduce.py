"""Bandwidth of an all-reduce, which is what a step waits for on several workers: gloo between CPUs, NCCL between GPUs.

``python -m ecgray.operations.all_reduce RANK SIZE STORE`` is one of the processes of a measurement on this machine.
Sent to nodes as it is: it imports nothing of ecgray.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

BYTES = 64 << 20
"""Of one all-reduce; a ResNet-18 has gradients of about 15 MB."""
TIMES = 4
TIMEOUT_S = 60


def measure(rank: int, size: int, init_method: str) -> dict[str, Any]:
    """Joins ``size`` processes and returns {"backend", "bus_bytes_per_s"} (None alone): the bandwidth that each link
    gives, 2 (size - 1) / size x bytes / seconds, as NCCL's own tests count it; the best of a few times."""
    import torch
    import torch.distributed as dist

    device = torch.device("cpu")
    if torch.cuda.is_available():  # several processes of one machine take a GPU each
        device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=TIMEOUT_S)
    )
    try:
        values = torch.ones(BYTES // 4, device=device)
        best_s = float("inf")
        for _ in range(TIMES):
            values.fill_(1.0)
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(values)
            total = values[-1].item()  # waits for the device
            best_s = min(best_s, time.perf_counter() - began)
            if total != size:
                raise RuntimeError(f"an all-reduce of ones over {size} processes gave {total}")
    finally:
        dist.destroy_process_group()
    return {"backend": backend, "bus_bytes_per_s": 2 * (size - 1) / size * BYTES / best_s if size > 1 else None}


def free_address() -> str:
    """tcp://HOST:PORT at which processes can meet on this machine."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"tcp://{socket.gethostbyname(socket.gethostname())}:{probe.getsockname()[1]}"


def measure_here(size: int = 2) -> dict[str, Any]:
    """The measurement between ``size`` processes of this machine. Raises RuntimeError with what the first said."""
    with tempfile.TemporaryDirectory(prefix="ecgray-") as folder:
        command = [sys.executable, "-m", __name__]
        processes = [
            subprocess.Popen(
                [*command, str(rank), str(size), f"file://{folder}/store"],
                stdout=subprocess.PIPE,
                stderr=(Path(folder) / f"stderr-{rank}").open("w"),
                text=True,
            )
            for rank in range(size)
        ]
        try:
            said = [process.communicate(timeout=2 * TIMEOUT_S)[0] for process in processes]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer within {2 * TIMEOUT_S} s") from None
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for rank, process in enumerate(processes):
            if process.returncode:
                raise RuntimeError((Path(folder) / f"stderr-{rank}").read_text())
        measured: dict[str, Any] = json.loads(said[0])
        return measured


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
