"""A job on a cluster, submitted from the laptop and followed to its end.

It does what ``ray job submit --working-dir . -- python jobs/pretrain.py RECIPE ...`` does, and goes on where that ends
early. When a busy head does not answer for half a minute, Ray stops following a job that goes on, with exit code 0 or 1
by chance. Here 0 says that the job has succeeded.

The dashboard is at http://localhost:8265, where ``ray dashboard`` leads, or at RAY_API_SERVER_ADDRESS.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ecgray.errors import EcgrayError

PATIENCE_S = 600.0
"""How long a cluster that does not answer at all is asked again."""
PAUSE_S = 5.0
T = TypeVar("T")


class Cluster:
    """A cluster's jobs, asked until it answers. ``code``: the folder that is sent, with the jobs in ``jobs/``."""

    def __init__(self, address: str, code: Path) -> None:
        from ray.job_submission import JobSubmissionClient

        self._address, self._code = address, code
        self._client: Any = self._answer(lambda: JobSubmissionClient(address), patience_s=0.0)

    def submit(self, name: str, words: list[str]) -> str:
        """Start the job ``name`` (pretrain, finetune, ...) with this folder's code; returns its id."""
        job = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        command = shlex.join(["python", f"jobs/{name}.py", *words])

        def submit() -> None:
            try:
                self._client.submit_job(
                    entrypoint=command, submission_id=job, runtime_env={"working_dir": str(self._code)}
                )
            except RuntimeError:
                if not self._begun(job):  # else only the answer was lost
                    raise

        self._answer(submit, patience_s=PATIENCE_S / 10)
        return job

    def _begun(self, job: str) -> bool:
        try:
            self._client.get_job_status(job)
        except RuntimeError:
            return False
        return True

    def follow(self, job: str) -> bool:
        """Print what the job says until it has ended, each character once; returns whether it succeeded."""
        printed = 0

        async def tail() -> None:
            nonlocal printed
            seen = 0  # each time from the start of the log
            async for text in self._client.tail_job_logs(job):
                print(text[max(0, printed - seen) :], end="", flush=True)
                seen += len(text)
                printed = max(printed, seen)

        while True:
            try:
                asyncio.run(tail())
            except Exception as error:  # of HTTP, of sockets, of the dashboard: what the job does is asked next
                print(f"\n[following again after: {_line(error)}]", file=sys.stderr)
            status = self._answer(lambda: self._client.get_job_status(job))
            if status.is_terminal():
                print(self._answer(lambda: self._client.get_job_logs(job))[printed:], end="", flush=True)
                print(f"Job {job}: {status.value.lower()}", file=sys.stderr)
                return status.value == "SUCCEEDED"
            time.sleep(PAUSE_S)

    def _answer(self, ask: Callable[[], T], patience_s: float | None = None) -> T:
        """What ``ask`` gives, asked again for so long. Raises EcgrayError where it gives nothing."""
        deadline = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
        while True:
            try:
                return ask()
            except (RuntimeError, OSError) as error:
                if time.monotonic() >= deadline:
                    raise EcgrayError(
                        f"The dashboard at {self._address} must answer, got: {_line(error)}; leave "
                        "`ray dashboard cluster.yaml` open, or set RAY_API_SERVER_ADDRESS."
                    ) from error
            time.sleep(PAUSE_S)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def submit(words: list[str], jobs: Path) -> int:
    """Run a job (``words``: its name, as pretrain, and what it is told) with the code around the folder ``jobs``.

    Returns the exit code: 0 when the job has succeeded, 1 when not. Raises EcgrayError for a name that is no job, and
    where the cluster does not answer.
    """
    names = sorted(file.stem for file in jobs.glob("*.py") if file.stem != "submit")
    if not words or words[0] not in names:
        got = words[0] if words else "nothing"
        raise EcgrayError(f"The first word must be a job, got {got}; give one of {', '.join(names)}.")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    cluster = Cluster(os.environ.get("RAY_API_SERVER_ADDRESS", "http://localhost:8265"), jobs.parent)
    job = cluster.submit(words[0], words[1:])
    print(f"Job {job} is submitted; what ends it is: RAY_AUTH_MODE=token ray job stop {job}", file=sys.stderr)
    try:
        return 0 if cluster.follow(job) else 1
    except KeyboardInterrupt:
        print(f"\nJob {job} goes on.", file=sys.stderr)
        return 1
