"""The fuzzer: python tests/fuzz/run.py --inputs 100000 [--seed 0] [--target TEXT] [--first N] [--json FILE]

Every input is made from (seed, target, number) alone, so that a finding is seen again with --target and --first.
Inputs are read in one child process, which is started anew where one kills it. Each gets 5 s and an address space of
twice the bytes of what it reads beyond a base; opening a file outside of the inputs, unpickling, and starting a
program are findings, as is every exception but a refusal with one reason. Exits with 1 where there is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 5.0
BASE_BYTES = 192 << 20
"""Address space that libraries may take for their pools, thread stacks and code, whatever they read."""
OUTCOMES = ("read", "refused", "exception", "hang", "memory", "outside", "reason", "crash")
LONGEST_REASON = 600


class Hang(BaseException):
    pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default="", help="only targets whose name holds this")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "ARROW_IO_THREADS"):
        os.environ[name] = "1"
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ecgray-fuzz-") as root:
        results = list(_supervise(given, Path(root)))
    summary = _table(results, time.monotonic() - began)
    if given.json is not None:
        given.json.write_text(json.dumps(summary, indent=1))
    return 1 if summary["findings"] else 0


def _supervise(given: argparse.Namespace, root: Path) -> Iterator[dict[str, Any]]:
    """Results of all inputs. A child writes a line before and after each; where it dies, the next goes on behind."""
    done: Counter[str] = Counter()
    while True:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reader)
                shutil.rmtree(root, ignore_errors=True)
                root.mkdir()
                _work(given, root, writer, done)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writer)
        begun: dict[str, Any] | None = None
        with open(reader, encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if "outcome" not in message:
                    begun = message
                    continue
                begun = None
                done[message["target"]] += 1
                yield message
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return
        if begun is None:
            raise SystemExit("The fuzzer itself failed (see above).")
        done[begun["target"]] += 1
        yield begun | {
            "outcome": "crash",
            "detail": f"the process died of signal {os.WTERMSIG(status)}",
            "seconds": 0.0,
        }


def _work(given: argparse.Namespace, root: Path, writer: int, done: Counter[str]) -> None:
    import logging
    import warnings

    sys.path.insert(0, str(Path(__file__).parent))
    logging.disable()
    warnings.simplefilter("ignore")
    log = open(os.devnull, "w")  # noqa: SIM115
    with contextlib.redirect_stderr(log):
        import material

        material.build(root)
    import numpy as np
    import pyarrow as pa
    from mutate import random_bytes
    from targets import TARGETS

    from ecgray.databases.record import RecordRefused

    pa.set_cpu_count(1)
    chosen = [target for target in TARGETS if given.target in target.name]
    total = sum(target.share for target in chosen)
    clean = Clean(root)
    for target in chosen:  # every import and every pool is there before the first watched input
        for number in range(3):
            with contextlib.suppress(RecordRefused):  # a database may choose a lead that is not there
                target.read(root, np.random.default_rng(number))
            clean.restore(target.scratch)
    watch = Watch(root)
    os.chdir(root)  # names that are relative to an open folder are told to the audit without it
    out = open(writer, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    for target in chosen:
        count = max(1, round(given.inputs * target.share / total))
        files = sorted(target.files)
        for number in range(given.first + done[target.name], given.first + count):
            rng = np.random.default_rng([given.seed, zlib.crc32(target.name.encode()), number])
            changed = {files[int(rng.integers(len(files)))]}
            if rng.random() < 0.05:
                changed.add(files[int(rng.integers(len(files)))])
            size = 0
            for file in sorted(changed):
                try:
                    content = target.files[file](rng, clean.content(file))
                except Exception:  # a second edit may not fit what the first one made
                    content = random_bytes(rng, clean.content(file))
                (root / file).write_bytes(content)
                clean.touched(file)
                size += len(content)
            if target.mend is not None and rng.random() < 0.6:
                with contextlib.suppress(ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
                    target.mend(root)
            out.write(json.dumps({"target": target.name, "number": number, "files": sorted(changed)}) + "\n")
            result = watch.read(target, rng, clean.size(target) + size)
            out.write(json.dumps({"target": target.name, "number": number, "files": sorted(changed)} | result) + "\n")
            clean.restore(target.scratch)


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
        system = ["/usr", "/lib", "/sys", "/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/etc/localtime"]
        devices = ["/dev/null", "/dev/urandom", "/dev/shm"]
        self._allowed = tuple(str(Path(path).resolve()) for path in [root, *code, *system, *devices])
        self._forbidden = str((root / "outside").resolve())
        sys.addaudithook(self._audit)
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
            if path.startswith(self._forbidden) or not path.startswith(self._allowed):
                self._seen.append(f"open {path}")

    def read(self, target: Any, rng: Any, size: int) -> dict[str, Any]:
        from ecgray.databases.record import RecordRefused
        from ecgray.errors import EcgrayError

        self._seen.clear()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + BASE_BYTES + 2 * size
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        began = time.monotonic()
        outcome, detail = "read", ""
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
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
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        seconds = time.monotonic() - began
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


def _table(results: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {}
    for result in results:
        counts.setdefault(result["target"], Counter())[result["outcome"]] += 1
    print(f"{'target':<24}{'inputs':>8}" + "".join(f"{name:>11}" for name in OUTCOMES))
    for target, row in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{target:<24}{row.total():>8}" + "".join(f"{row[name] or '-':>11}" for name in OUTCOMES))
    slowest = max(results, key=lambda result: result["seconds"])
    print(f"{seconds:.0f} s; slowest input {slowest['seconds']:.2f} s ({slowest['target']} {slowest['number']})")
    findings: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        if result["outcome"] not in ("read", "refused"):
            findings.setdefault((result["outcome"], result["detail"][-90:]), []).append(result)
    for same in sorted(findings.values(), key=len, reverse=True):
        first = same[0]
        print(
            f"{len(same)} x {first['outcome']}: {first['target']} {first['number']} {first['files']}: {first['detail']}"
        )
    return {
        "inputs": len(results),
        "outcomes": {target: dict(row) for target, row in counts.items()},
        "slowest_seconds": slowest["seconds"],
        "seconds": seconds,
        "findings": [same[0] | {"times": len(same)} for same in findings.values()],
        "reasons": len({result["detail"] for result in results if result["outcome"] == "refused"}),
    }


if __name__ == "__main__":
    sys.exit(main())
