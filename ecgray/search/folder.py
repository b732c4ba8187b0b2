"""The folder of a sweep.

sweep.json                     the config, the name of its study, the manifest hashes of its data, every start
study.db (or study.log)        the Optuna study: the record
trials.json                    the study as it stood after the last trial, for reading without a database
trials/trial-0003/             finetune/ (a finetuning run whose test is closed), result.json, events/, error.txt,
                               pretraining -> the run below
pretraining/<hash>/run         a pretraining run, shared by all trials with this config
pretraining/<hash>/probes/     step-000100/: the probe of a checkpoint, a finetuning run
pretraining/<hash>/work.jsonl  seconds and devices of each stretch of it
final/                         winner/, none/, paper/: finetuning runs whose test was opened, and final.json
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgray.config import differing, from_dict, to_dict
from ecgray.errors import EcgrayError
from ecgray.finetuning.folder import write_json_atomically
from ecgray.search.config import SweepConfig
from ecgray.training.model_folder import json_lines, read_json
from ecgray.training.run import describe_environment, locked, resumable

MAY_CHANGE = ("search.trials", "search.final_seeds", "pretrain.data.shards", "finetune.data.shards")
"""Fields that a resumed sweep may be given anew: how much, and places whose content is compared instead."""


@dataclass(frozen=True)
class SweepFolder:
    """Paths of a sweep. Picklable, so that trials get it."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "sweep.json"

    @property
    def trials(self) -> Path:
        return self.path / "trials.json"

    @property
    def final(self) -> Path:
        return self.path / "final"

    def trial(self, number: int) -> Path:
        return self.path / "trials" / f"trial-{number:04d}"

    def pretraining(self, name: str) -> Path:
        return self.path / "pretraining" / name


def read_sweep_config(sweep: SweepFolder) -> SweepConfig:
    """The config of a sweep; raises EcgrayError when it is missing or of another kind."""
    return from_dict(SweepConfig, read_json(sweep.config).get("config"), where=str(sweep.config))


NOT_OF_A_SWEEP = ("lock", "study.db", "study.log")
"""What a start that was refused leaves."""


@contextlib.contextmanager
def open_sweep(
    out: Path, config: SweepConfig, manifest_hashes: Mapping[str, Sequence[str]], *, resume: bool
) -> Iterator[tuple[SweepFolder, str, Callable[[], None]]]:
    """The folder ``out``, locked while in use; the name of its study; and what writes down that the sweep begins, by
    which the folder becomes one.

    A folder that holds anything is refused without ``resume``; with it, config and data must be those that the sweep
    was started with, apart from the number of trials and of final seeds. Once its test records were opened, a sweep
    takes no more trials.
    """
    sweep = SweepFolder(out.expanduser().absolute())
    if sweep.path.exists() and not sweep.path.is_dir():
        raise EcgrayError(f"The sweep must be a folder, got the file {sweep.path}; give another --out.")
    exists = sweep.config.is_file()
    if exists and not resume:
        raise EcgrayError(f"A sweep must go into a new folder, got {sweep.path}, which holds one; go on with --resume.")
    if not exists and sweep.path.is_dir() and any(entry.name not in NOT_OF_A_SWEEP for entry in sweep.path.iterdir()):
        raise EcgrayError(
            f"A sweep must go into a new folder, got {sweep.path}, which holds other files; give another --out."
        )
    sweep.path.mkdir(parents=True, exist_ok=True)
    with locked(sweep.path / "lock"), resumable(sweep.path):
        stored: dict[str, Any] = {}
        if sweep.config.is_file():
            if not resume:
                raise EcgrayError(f"A sweep must go into a new folder, got {sweep.path}, which holds one.")
            stored = read_json(sweep.config)
            _refuse_other(sweep, config, stored.get("manifest_hashes"), manifest_hashes)
        study = stored.get("study") or f"ecgray-{config.space}-{uuid.uuid4().hex[:8]}"
        start = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "pid": os.getpid(), "trials": config.search.trials}
        values = {
            "study": study,
            "config": to_dict(config),
            "manifest_hashes": manifest_hashes,
            "starts": [*stored.get("starts", []), start],
        }
        yield sweep, study, lambda: write_json_atomically(sweep.config, values | describe_environment())


def _refuse_other(sweep: SweepFolder, config: SweepConfig, stored_hashes: Any, hashes: Any) -> None:
    stored = read_sweep_config(sweep)
    found = differing(stored, config, MAY_CHANGE)
    if stored_hashes != hashes:
        found.append("the content of the shard sets")
    if found:
        raise EcgrayError(
            f"A sweep must be resumed with what it was started with, got others of: {', '.join(found)}; "
            "give the old ones back or start a new sweep."
        )
    if sweep.final.is_dir() and stored.search.trials < config.search.trials:
        raise EcgrayError(
            f"A sweep whose test records were opened must take no more trials, got {config.search.trials} instead of "
            f"{stored.search.trials}: they would be chosen on a test that is known; start a new sweep."
        )


def append_json(path: Path, values: Any) -> None:
    """Add a line of JSON."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON objects, none where it is missing."""
    return json_lines(path.read_bytes()) if path.is_file() else []
