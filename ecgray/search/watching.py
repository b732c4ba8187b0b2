"""How far a sweep is: its trials run elsewhere, and what they write into their folders says where they are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ecgray.errors import EcgrayError
from ecgray.progress import Progress
from ecgray.search.config import SweepConfig
from ecgray.search.folder import SweepFolder
from ecgray.training.model_folder import json_lines
from ecgray.training.run import RunFolder

LOOK_EVERY_S = 2.0
"""How often it is looked where the trials are."""
SHOWN = 2
"""Trials of which it is told where they are."""


def where(sweep: SweepFolder, number: int, config: SweepConfig) -> tuple[float, str]:
    """How much of a trial is done, pretraining and finetuning half of it each, and where that is in words."""
    seeds = sorted((sweep.trial(number) / "finetune" / "seeds").glob("seed-*"))
    asked = config.finetuning("").protocol
    if seeds:
        ended = sum((seed / "chosen.json").is_file() for seed in seeds)
        epochs = sum(asked.epochs if (seed / "chosen.json").is_file() else _lines(seed) for seed in seeds)
        share = epochs / (asked.seeds * asked.epochs)
        return 0.5 + 0.5 * share, f"#{number} seed {min(ended + 1, asked.seeds)}/{asked.seeds}"
    run = RunFolder(sweep.trial(number) / "pretraining" / "run")
    lines = run.read_metrics(run.find_metrics(config.steps))
    step = max((line["step"] for line in lines), default=0)
    return 0.5 * step / config.steps, f"#{number} step {step}/{config.steps}"


def _lines(seed: Path) -> int:
    file = seed / "metrics.jsonl"
    return len(json_lines(file.read_bytes())) if file.is_file() else 0


@contextlib.contextmanager
def watched(
    progress: Progress, sweep: SweepFolder, config: SweepConfig, running: Callable[[], tuple[int, Sequence[int]]]
) -> Iterator[None]:
    """Show where the trials are while inside. ``running``: (how many have ended, the numbers of those that run)."""
    before, ended = progress.done, threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_EVERY_S):
            with contextlib.suppress(EcgrayError, OSError):  # files that are just being replaced
                finished, numbers = running()
                found = [where(sweep, number, config) for number in numbers]
                more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
                progress.say(trials=", ".join(text for _, text in found[:SHOWN]) + more)
                progress.to(before + finished + sum(share for share, _ in found))

    thread = threading.Thread(target=look, name="ecgray-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
