"""Inputs that coverage leads to: libFuzzer keeps whatever reaches a new edge in the package and mutates it further."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from watch import Clean, Watch, write_input

FIRST_CHOOSES = 1
"""Leading bytes of an input, which say the file of the target that it stands for; the rest is the file's content."""
LONGEST = 1 << 20


def fuzz(
    targets: Sequence[Any], counts: Sequence[int], seed: int, root: Path, watch: Watch, clean: Clean, out: IO[str]
) -> None:
    """Fuzz each target in a process of its own (libFuzzer ends the process it ran in), a line before and after each
    input as of run.py. The input of a finding is kept in a file that the line names."""
    for target, count in zip(targets, counts, strict=True):
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with its parent
            _fuzz(target, count, seed, root, watch, clean, out)
        status = os.waitpid(child, 0)[1]
        if status:
            last = _keep((root.parent / "last").read_bytes())
            line = {"target": target.name, "number": -1, "files": [last], "outcome": "crash", "seconds": 0.0}
            out.write(json.dumps(line | {"detail": f"the process ended with status {status}"}) + "\n")


def _fuzz(target: Any, count: int, seed: int, root: Path, watch: Watch, clean: Clean, out: IO[str]) -> None:
    import atheris

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libFuzzer tells its progress
    files = sorted(target.files)
    corpus = Path(tempfile.mkdtemp(prefix="corpus-", dir=root.parent))
    for number, file in enumerate(files):
        (corpus / str(number)).write_bytes(bytes([number]) + clean.content(file))
    numbers = iter(range(count))

    def try_one(data: bytes) -> None:
        number = next(numbers, None)
        if number is None:  # libFuzzer tries its corpus whatever it was told
            return
        file = files[data[0] % len(files)] if data else files[0]
        content = data[FIRST_CHOOSES:]
        (root.parent / "last").write_bytes(data)
        told = {"target": target.name, "number": number, "files": [file]}
        out.write(json.dumps(told) + "\n")
        rng = np.random.default_rng(zlib.crc32(data))
        size = write_input(target, {file: content}, rng, root, clean)
        result = watch.read(target, rng, size)
        if result["outcome"] not in ("read", "refused"):
            result["detail"] = f"{_keep(data)}: {result['detail']}"
        out.write(json.dumps(told | result) + "\n")
        clean.restore(target.scratch)

    def mutate(data: bytes, longest: int, draw: int) -> bytes:
        rng = np.random.default_rng(draw)
        first, changed = data[:FIRST_CHOOSES] or b"\0", data[FIRST_CHOOSES:]
        if rng.random() < 0.3:  # afresh: a file that reaches nothing of its own is never kept
            number = int(rng.integers(len(files)))
            first, changed = bytes([number]), clean.content(files[number])
        mutator: Callable[..., bytes] = target.files[files[first[0] % len(files)]]
        if rng.random() < 0.6:
            with contextlib.suppress(Exception):  # a mutator may not fit what earlier mutations made
                return (first + mutator(rng, changed))[:longest]
        return bytes(atheris.Mutate(first + changed, longest))

    words = [f"-runs={count}", f"-seed={seed + 1}", "-timeout=0", "-rss_limit_mb=0", f"-max_len={LONGEST}"]
    atheris.Setup([sys.argv[0], *words, "-len_control=0", "-verbosity=0", str(corpus)], try_one, custom_mutator=mutate)
    atheris.Fuzz()
    out.flush()
    os._exit(0)


def _keep(data: bytes) -> str:
    kept = Path(tempfile.gettempdir()) / f"ecgray-finding-{hashlib.sha256(data).hexdigest()[:12]}"
    kept.write_bytes(data)
    return str(kept)
