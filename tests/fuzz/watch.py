"""One input at a time under its limits, and the way back to unchanged inputs: what both fuzzers share."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

CPU_SECONDS = 5.0
WAITING_SECONDS = 120.0
"""How long an input may take in all, for one that blocks: a pipe, a lock."""
BASE_BYTES = 192 << 20
"""Address space that libraries may take for their pools, thread stacks and code, whatever they read."""
LONGEST_REASON = 600


class Hang(BaseException):
    pass


class Clean:
    """The unchanged inputs, to mutate from and to go back to."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = {
            file.relative_to(root).as_posix(): file.read_bytes()
            for file in sorted(root.rglob("*"))
            if file.is_file() and not file.is_symlink()
        }
        self._touched: set[str] = set()

    def content(self, file: str) -> bytes:
        return self._files[file]

    def touched(self, file: str) -> None:
        self._touched.add(file)

    def size(self, target: Any) -> int:
        """Bytes below the folders that the target reads."""
        tops = {file.split("/")[0] for file in target.files}
        return sum(len(content) for name, content in self._files.items() if name.split("/")[0] in tops)

    def restore(self, scratch: tuple[str, ...]) -> None:
        for folder in scratch:
            shutil.rmtree(self._root / folder, ignore_errors=True)
        for name, content in self._files.items():
            own = name.startswith(tuple(f"{folder}/" for folder in scratch)) if scratch else False
            vouched = name.endswith(("shards/manifest.json", "labelled/manifest.json", "/complete", "metrics.jsonl"))
            if own or vouched or name in self._touched:
                (self._root / name).parent.mkdir(parents=True, exist_ok=True)
                (self._root / name).write_bytes(content)
        self._touched.clear()


class Watch:
    """One input at a time, with its limits; remembers what it opens, unpickles or starts."""

    def __init__(self, root: Path) -> None:
        self._root, self._active = root, False
        self._seen: list[str] = []
        code = [sys.prefix, sys.base_prefix, str(Path(__file__).parents[2] / "ecgray"), *filter(None, sys.path)]
        system = ["/usr", "/lib", "/sys", "/proc/meminfo", "/proc/cpuinfo", "/etc/localtime"]
        devices = ["/dev/null", "/dev/urandom", "/dev/shm"]
        self._allowed = tuple(str(Path(path).resolve()) for path in [root, *code, *system, *devices])
        self._forbidden = str((root / "outside").resolve())
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGPROF, self._alarm)
        signal.signal(signal.SIGALRM, self._alarm)

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        raise Hang

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event in (
            "pickle.find_class",
            "os.system",
            "subprocess.Popen",
            "socket.connect",
            "os.exec",
            "os.posix_spawn",
        ):
            self._seen.append(f"{event} {arguments[:2]}")
        elif event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            own = f"/proc/{os.getpid()}/"  # of the process that reads, which may be a child of the one that began
            if path.startswith(self._forbidden) or not path.startswith((*self._allowed, own)):
                self._seen.append(f"open {path}")

    def read(self, target: Any, rng: Any, size: int) -> dict[str, Any]:
        from ecgray.databases.record import RecordRefused
        from ecgray.errors import EcgrayError

        self._seen.clear()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + BASE_BYTES + 2 * size
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        began = time.process_time()
        outcome, detail = "read", ""
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING_SECONDS)
        self._active = True
        try:
            target.read(self._root, rng)
        except (RecordRefused, EcgrayError) as refusal:
            outcome, detail = "refused", str(refusal)
        except Hang:
            outcome, detail = "hang", _where(sys.exc_info()[1])
        except MemoryError as error:
            outcome, detail = "memory", f"{error} {_where(error)}"
        except BaseException as error:
            outcome, detail = "exception", f"{type(error).__name__}: {str(error)[:200]} {_where(error)}"
        finally:
            self._active = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        seconds = time.process_time() - began
        if "allocate" in detail or "bad_alloc" in detail or "out of memory" in detail.lower():
            outcome = "memory"
        elif outcome == "refused" and ("\n" in detail or not detail.strip() or len(detail) > LONGEST_REASON):
            outcome, detail = "reason", repr(detail[:300])
        if self._seen:
            outcome, detail = "outside", "; ".join(self._seen[:3])
        return {"outcome": outcome, "detail": detail[:400], "seconds": seconds}


def _where(error: BaseException | None) -> str:
    """The innermost two places of the package in a traceback."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    own = [
        f"{Path(f.filename).name}:{f.lineno}"
        for f in frames
        if "ecgray" in f.filename and "site-packages" not in f.filename
    ]
    return "at " + " ".join(own[-2:]) + (f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else "")


def write_input(target: Any, changed: Mapping[str, bytes], rng: np.random.Generator, root: Path, clean: Clean) -> int:
    """Put the changed files in their places, mostly with what vouches for them mended; bytes that are then to read."""
    for file, content in changed.items():
        (root / file).write_bytes(content)
        clean.touched(file)
    if target.mend is not None and rng.random() < 0.6:
        with contextlib.suppress(ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
            target.mend(root)
    return clean.size(target) + sum(map(len, changed.values()))
