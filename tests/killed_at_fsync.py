"""Kills a command at one flush to the disk after the other, as a power cut or an out-of-memory kill might.

    python tests/killed_at_fsync.py '{"words": [...], "again": [...], "root": "/new/folder", "every": 1}'

``OUT`` in the words is a place of each try's own below ``root``. A try runs the words in a process of its own that ends
itself by SIGKILL at its n-th ``os.fsync``, then ``again`` in one that nobody disturbs. Tries go on until a process is
at its end before that, each ``every`` flushes later. Printed: {"tries": [{"place", "left", "state", "code", "litter"}],
"whole"}: the folder with each try's OUT, the partial files in it after the kill, what ``ecgray runs`` says of a run
there, the second process's exit code, the partial files after it; and the folder of the one that was not killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ecgray.finetuning.evaluate
import ecgray.finetuning.predict
import ecgray.finetuning.protocol
import ecgray.report.report
import ecgray.shards.ingest
import ecgray.training.pretraining  # noqa: F401  (once, before the processes part)
from ecgray.cli import main
from ecgray.operations.run_list import list_runs


def run(words: Sequence[str], kill_at: int | None) -> int:
    """The exit code of the command in a process of its own; -9 for one that was killed at its flush ``kill_at``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        real, count = os.fsync, 0

        def fsync(handle: int) -> None:
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            real(handle)

        os.fsync = fsync
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = main(list(words))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def partials(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*partial*"))


def tries(job: dict[str, Any]) -> dict[str, Any]:
    found, kill_at = [], 1
    while True:
        place = Path(job["root"], f"{kill_at:03d}")
        place.mkdir(parents=True)
        words, again = ([word.replace("OUT", str(place / "out")) for word in job[key]] for key in ("words", "again"))
        code = run(words, kill_at)
        if code == 0:
            return {"tries": found, "whole": str(place)}
        assert code == -signal.SIGKILL, code
        values = {"place": str(place), "left": partials(place), "state": [row.state for row in list_runs(place)]}
        found.append(values | {"code": run(again, None), "litter": partials(place)})
        kill_at += job["every"]


if __name__ == "__main__":
    print(json.dumps(tries(json.loads(sys.argv[1]))))
