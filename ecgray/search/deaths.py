"""Trials whose process dies, with its machine or for want of memory: who is started again, and what is left of one that
is given up."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ray.tune import Callback

from ecgray.search.folder import SweepFolder
from ecgray.search.trial import ERROR
from ecgray.shards.manifest import write_atomically

RETRIES = 1
"""How often the process of a trial may die without a new checkpoint in between, and be started again."""
CHECKPOINTS = (
    "pretraining/run/checkpoints/*/complete",
    "pretraining/probes/*/seeds/*/training.safetensors",
    "finetune/seeds/*/training.safetensors",
)
"""Of a trial, in its folder."""


class Deaths(Callback):
    """Lets Tune forget the deaths of a trial that has come further since, so that losing a machine now and then costs
    no trial; and writes down why one was given up: the trial itself could not."""

    def __init__(self, sweep: SweepFolder) -> None:
        self._sweep = sweep
        self._before: dict[str, set[tuple[Path, int]]] = {}

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._before[trial.trial_id] = self._checkpoints(trial)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for trial in trials:
            if trial.trial_id in self._before and self._checkpoints(trial) - self._before[trial.trial_id]:
                trial.run_metadata.num_failures = 0
                del self._before[trial.trial_id]

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._before.pop(trial.trial_id, None)
        text = f"The process of the trial died, and once more after a new start: {trial.get_error()}"
        folder = self._folder(trial)
        with contextlib.suppress(OSError):  # a disk that refuses ends the sweep when the study is told
            folder.mkdir(parents=True, exist_ok=True)  # it may have died before it did this itself
            write_atomically(folder / ERROR, text.encode())

    def _folder(self, trial: Any) -> Path:
        return self._sweep.trial(trial.config["number"])

    def _checkpoints(self, trial: Any) -> set[tuple[Path, int]]:
        """Each with the time of its last change."""
        found = set()
        for path in (path for pattern in CHECKPOINTS for path in self._folder(trial).glob(pattern)):
            with contextlib.suppress(OSError):  # one that goes as a newer one comes
                found.add((path, path.stat().st_mtime_ns))
        return found
