"""The run folder: what was asked, where it ran, what came out.

config.json         the config, as given
environment.json    versions, git commit, host, hashes of config and shard sets, steps of the whole run, every start and
                    how it ended
metrics.jsonl       a line per log step and per validation
checkpoints/        step-000123/ ...
best                link to the checkpoint with the highest validation accuracy
events/             the same metrics for TensorBoard

A run at a URL has its working copy on this machine, and is published from there: metrics and events with every
checkpoint and at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecgray import __version__
from ecgray.config import config_hash, differing, from_dict, to_dict
from ecgray.errors import EcgrayError, Passing
from ecgray.processor import cores
from ecgray.shards.manifest import fsync_folder, replaced, write_atomically
from ecgray.shards.remote_lock import refuse_lost
from ecgray.shards.storage import StorageLost, is_remote, join, remove, resolve, write_bytes
from ecgray.shards.working import holds_other_files, push, working_copy
from ecgray.training.checkpoint import step_folder
from ecgray.training.config import PretrainConfig
from ecgray.training.model_folder import json_lines, read_json
from ecgray.training.stopping import RunStopped

MAY_CHANGE = ("training.steps",)
"""Fields that a resumed run may be given anew: they say how long, not what."""
HANDOVER_S = 120.0
"""How long a process waits for one of an earlier start that outlives its driver and may still write."""
BLOCK_BYTES = 1 << 16
"""Of metrics.jsonl, which has millions of lines after weeks: looked back over at first, copied at a time."""
LIBRARIES = ("torch", "ray", "numpy", "pandas", "pyarrow", "safetensors", "scipy", "wfdb", "sleepecg")


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, its metrics file, and the URL where it is published, if it is. Picklable.

    lock: number of the lock under which it is published; None for a reader.
    """

    path: Path
    url: str | None = None
    lock: int | None = None

    @property
    def place(self) -> Path | str:
        """Where people look for the run."""
        return self.url or self.path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best"

    def add_metrics(self, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl. Raises EcgrayError when the disk refuses."""
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise EcgrayError(
                f"{self.metrics} must be writable, got: {error}; free space or mend permissions, then --resume."
            ) from error

    def read_metrics(self, start: int = 0) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl from byte ``start`` on; what is no line of metrics is left out, as the last
        one is when a kill has torn it."""
        if not self.metrics.is_file():
            return []
        with open(self.metrics, "rb") as file:
            file.seek(start)
            return _metrics_in(file.read())

    def find_metrics(self, step: int) -> int:
        """A byte of metrics.jsonl where a line begins, not far before the first metrics of ``step`` or later.

        Steps ascend in the file: the first line of metrics in blocks at its end, each twice the one before, tells how
        far back to go, and is all that is parsed.
        """
        if not self.metrics.is_file():
            return 0
        with open(self.metrics, "rb") as file:
            back, size = BLOCK_BYTES, file.seek(0, os.SEEK_END)
            while back < size:
                file.seek(size - back)
                file.readline()  # the rest of one that begins before
                start = file.tell()
                first = next((values for line in file for values in _metrics_in(line)), None)
                if first is not None and first["step"] < step:
                    return start
                back *= 2
        return 0

    def rewind_metrics(self, step: int, *, validated: bool = True) -> None:
        """Forget the metrics after ``step`` (unless ``validated``, its validation too), or all of them at 0: all that
        is done again. What lies well before ``step`` is copied as it is."""
        if step <= 0:
            write_atomically(self.metrics, b"")
            return
        again = None if validated else ("validation", step)
        start = self.find_metrics(step)
        kept = [line for line in self.read_metrics(start) if line["step"] <= step]
        kept = [line for line in kept if (line.get("kind"), line["step"]) != again]
        with replaced(self.metrics) as stream:
            if start:
                with open(self.metrics, "rb") as file:
                    while block := file.read(min(BLOCK_BYTES, start - file.tell())):
                        stream.write(block)
            stream.write("".join(json.dumps(line) + "\n" for line in kept).encode())

    def publish(self, *files: Path) -> None:
        """Copy files of the run to its URL; nothing for a run that has none."""
        if self.url is not None:
            self.refuse_lost()
            push(self.path, self.url, (str(file.relative_to(self.path)) for file in files if file.is_file()))

    def refuse_lost(self) -> None:
        """Raises EcgrayError when another process has taken over the run's URL."""
        if self.url is not None and self.lock is not None:
            refuse_lost(self.url, self.lock)

    def publish_progress(self) -> None:
        """Metrics and events, as far as they are written."""
        self.publish(self.metrics, *sorted((self.path / "events").glob("*")))

    def point_best(self, step: int | None) -> None:
        """Let ``best`` lead to the checkpoint of ``step`` (None: to nothing): a link, at a URL its name."""
        if self.url is not None:
            self.refuse_lost()
            there = join(self.url, "best")
            remove(there) if step is None else write_bytes(there, step_folder(self.checkpoints, step).name.encode())
        if step is None:
            self.best.unlink(missing_ok=True)
            return
        link = self.path / ".best.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(step_folder(self.checkpoints, step).relative_to(self.path))
        link.rename(self.best)
        fsync_folder(self.path)


def _metrics_in(content: bytes) -> list[dict[str, Any]]:
    return [values for values in json_lines(content) if type(values.get("step")) is int]


def read_config(run: Path) -> PretrainConfig:
    """The config of a pretraining run; raises EcgrayError when it is missing or of another kind."""
    values = read_json(run / "config.json")
    if "protocol" in values:
        raise EcgrayError(f"A pretraining run is needed, got {run}, which is a finetuning run; give another folder.")
    return from_dict(PretrainConfig, values, where=str(run / "config.json"))


def run_hash(config: PretrainConfig, manifest_hashes: Sequence[str]) -> str:
    """The hash of what a run computes: of its config, with its shard sets named by content instead of by place."""
    return config_hash(replace(config, data=replace(config.data, shards=tuple(manifest_hashes))))


@contextlib.contextmanager
def open_run(
    out: Path | str,
    config: PretrainConfig,
    manifest_hashes: Sequence[str],
    *,
    resume: bool,
    workers: int | tuple[int, int],
    steps: int,
    newest: Callable[[RunFolder], int] = lambda run: 0,
) -> Iterator[RunFolder]:
    """The run folder ``out`` (a path or a URL), locked while in use, with config and environment written.

    A folder that holds anything is refused without ``resume``; with it, the config must be the one that the run was
    started with, apart from the number of steps, which are no fewer than the ``newest`` checkpoint has. The lock dies
    with this process.
    """
    with contextlib.ExitStack() as stack:
        if is_remote(out):
            url = resolve(out)
            copy = stack.enter_context(working_copy(url, resume=resume, wanted=lambda name: name in _TO_GO_ON))
            run = RunFolder(copy[0], url, copy[1])
        else:
            run = RunFolder(Path(out).absolute())
        exists = run.config.is_file()
        if run.path.exists() and not run.path.is_dir():
            raise EcgrayError(f"The run must be a folder, got the file {run.path}; give another --out.")
        if exists and not resume:
            raise EcgrayError(f"A run must go into a new folder, got {run.path}, which holds one; go on with --resume.")
        if not exists and run.path.is_dir() and holds_other_files(run.path):
            raise EcgrayError(
                f"A run must go into a new folder, got {run.path}, which holds other files; give another --out."
            )
        run.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(run.path / "lock"))
        if run.config.is_file():  # looked at again: another process may have been here before the lock
            if not resume:
                raise EcgrayError(f"A run must go into a new folder, got {run.path}, which holds one; add --resume.")
            _refuse_other_config(run, config, manifest_hashes)
            if (done := newest(run)) > steps:
                raise EcgrayError(
                    f"A resumed run must have at least the {done} steps that {run.place} has done, got "
                    f"training.steps={steps}; give --training.steps {done} or more."
                )
        stack.enter_context(resumable(run.place))
        write_atomically(run.environment, _json(_environment(run, config, manifest_hashes, workers, steps)))
        write_atomically(run.config, _json(to_dict(config)))  # last: with it the folder is a run
        run.checkpoints.mkdir(exist_ok=True)
        run.publish(run.environment, run.config)
        stack.enter_context(end_recorded(run))
        yield run


_TO_GO_ON = ("config.json", "environment.json", "metrics.jsonl")
"""What a resumed run at a URL needs of what is published, beside a checkpoint."""


@contextlib.contextmanager
def end_recorded(run: RunFolder) -> Iterator[None]:
    """Notes with the last start in environment.json how it ended: {"state": "finished"}, "stopped" (it was asked to),
    or "failed" with a "reason" of one line. A start without a note is going on, or its process was killed."""
    ended = {"state": "finished"}
    reachable = True
    try:
        yield
    except (RunStopped, KeyboardInterrupt):
        ended = {"state": "stopped"}
        raise
    except BaseException as error:
        said = [line for line in str(error).splitlines() if line.strip()]  # a remote traceback ends with its reason
        ended = {"state": "failed", "reason": f"{type(error).__name__}: {said[-1].strip() if said else ''}"[:400]}
        reachable = not isinstance(error.__cause__, StorageLost)
        raise
    finally:
        with contextlib.suppress(OSError, EcgrayError):  # a full disk has stopped the run already
            values = read_json(run.environment)
            values["starts"][-1]["ended"] = ended
            write_atomically(run.environment, _json(values))
            if reachable:
                run.publish(run.environment)


@contextlib.contextmanager
def resumable(run: Path | str) -> Iterator[None]:
    """Turns what the disk refuses (OSError) into an EcgrayError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise disk_refused(run, error) from error


def disk_refused(run: Path | str, error: OSError) -> EcgrayError:
    """What the disk refuses, as an error that says how to go on."""
    return EcgrayError(
        f"The run in {run} must be able to read and write its files, got: {error}; "
        "free some space or mend the permissions, then --resume."
    )


@contextlib.contextmanager
def locked(path: Path, patience_s: float = 0.1) -> Iterator[None]:
    """Hold the lock file ``path``; it is freed by the kernel when the process ends, however it ends.

    Raises Passing when another process holds it for longer than ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    with open(path, "a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Passing(
                        f"A run must be used by one process at a time, got {path.parent}, which another one is using; "
                        "wait for it or give another --out."
                    ) from None
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")  # for people; what counts is the kernel's lock
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Whether a live process holds the lock file ``path``. It is not changed; ``locked`` waits out this look."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _refuse_other_config(run: RunFolder, config: PretrainConfig, manifest_hashes: Sequence[str]) -> None:
    found = differing(read_config(run.path), config, (*MAY_CHANGE, "data.shards"))
    if read_json(run.environment).get("manifest_hashes") != list(manifest_hashes):
        found.append("the content of data.shards")
    if found:
        raise EcgrayError(
            f"A run must be resumed with the config it was started with, got other values of {', '.join(found)}; "
            "give the old ones back or start a new run."
        )


def _environment(
    run: RunFolder, config: PretrainConfig, manifest_hashes: Sequence[str], workers: int | tuple[int, int], steps: int
) -> dict[str, Any]:
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "workers": workers,
    }
    before = read_json(run.environment).get("starts", []) if run.environment.is_file() else []
    return describe_environment() | {
        "config_hash": run_hash(config, manifest_hashes),
        "manifest_hashes": list(manifest_hashes),
        "steps": steps,
        "starts": [*before, start],
    }


def describe_environment() -> dict[str, Any]:
    """Versions, git commit of the code (None outside a checkout), host and command of this process; "cpus": of the
    machine; "cores": how many of them this process may use."""
    versions = {"python": platform.python_version(), "ecgray": __version__}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "versions": versions,
        "git_commit": _git_commit(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cores": cores(),
        "command": [_without_credentials(word) for word in sys.argv],
    }


def _without_credentials(word: str) -> str:
    """A word of the command, of a URL that names a user or has a query no more than its kind."""
    return re.sub(r"(?<=://).*[@?].*", "***", word)


def _git_commit() -> str | None:
    """Commit of the checkout that this package runs from, with "+changes" where files differ from it."""
    folder = Path(__file__).parent
    if not (folder.parents[1] / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
