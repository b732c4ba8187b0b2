"""The fuzzer: python tests/fuzz/run.py --inputs 100000 [--coverage] [--seed 0] [--target TEXT] [--json FILE]

Every input is made from (seed, target, number) alone, so that a finding is seen again with --target and --first; with
--coverage (needs atheris) libFuzzer makes them, led by what they reach, and a finding's input is kept in a file.
Inputs are read in one child process, which is started anew where one kills it. Each gets 5 s of processor time (a busy
machine makes no finding; one that waits without computing has 2 minutes) and an address space of twice the bytes of
what it reads beyond a base; opening a file outside of the inputs, unpickling, and starting a program are findings, as
is every exception but a refusal with one reason. Exits with 1 where there is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
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
from typing import IO, Any

SILENT_SECONDS = 300.0
"""How long the child may say nothing before it is ended: a loop in compiled code hears no signal."""
OUTCOMES = ("read", "refused", "exception", "hang", "memory", "outside", "reason", "crash")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default="", help="only targets whose name holds this")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--coverage", action="store_true", help="led by coverage of the package (atheris)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "ARROW_IO_THREADS"):
        os.environ[name] = "1"
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ecgray-fuzz-") as folder:
        results = list(_supervise(given, Path(folder) / "root"))
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
            for line in _spoken(lines, child):
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
            "outcome": "hang" if os.WTERMSIG(status) == signal.SIGKILL else "crash",
            "detail": f"the process died of signal {os.WTERMSIG(status)}",
            "seconds": 0.0,
        }


def _spoken(lines: IO[str], child: int) -> Iterator[str]:
    """The child's lines; once it has begun, one that says nothing for too long is killed."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    try:
        for line in lines:
            signal.setitimer(signal.ITIMER_REAL, SILENT_SECONDS)
            yield line
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _work(given: argparse.Namespace, root: Path, writer: int, done: Counter[str]) -> None:
    import logging
    import warnings

    sys.path.insert(0, str(Path(__file__).parent))
    logging.disable()
    warnings.simplefilter("ignore")
    log = open(os.devnull, "w")  # noqa: SIM115
    with contextlib.redirect_stderr(log), _instrumented(given.coverage):
        import material

        material.build(root)
        from targets import TARGETS
    import numpy as np
    import pyarrow as pa
    from mutate import random_bytes
    from watch import Clean, Watch, write_input

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
    counts = [math.ceil(given.inputs * target.share / total) for target in chosen]
    if given.coverage:
        from guided import fuzz

        fuzz(chosen, counts, given.seed, root, watch, clean, out)
        return
    for target, count in zip(chosen, counts, strict=True):
        files = sorted(target.files)
        for number in range(given.first + done[target.name], given.first + count):
            rng = np.random.default_rng([given.seed, zlib.crc32(target.name.encode()), number])
            chosen_files = {files[int(rng.integers(len(files)))]}
            if rng.random() < 0.05:
                chosen_files.add(files[int(rng.integers(len(files)))])
            changed = {}
            for file in sorted(chosen_files):
                try:
                    changed[file] = target.files[file](rng, clean.content(file))
                except Exception:  # a second edit may not fit what the first one made
                    changed[file] = random_bytes(rng, clean.content(file))
            told = {"target": target.name, "number": number, "files": sorted(changed)}
            out.write(json.dumps(told) + "\n")
            size = write_input(target, changed, rng, root, clean)
            out.write(json.dumps(told | watch.read(target, rng, size)) + "\n")
            clean.restore(target.scratch)


def _instrumented(coverage: bool) -> contextlib.AbstractContextManager[Any]:
    """While open, modules of the package are imported with counters at their branches."""
    if not coverage:
        return contextlib.nullcontext()
    import atheris

    return atheris.instrument_imports(include=["ecgray"])


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
