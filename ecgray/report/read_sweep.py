"""What a report takes from the folder of a sweep: its trials, what they cost, and where the final runs lie."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgray.errors import EcgrayError
from ecgray.search.config import SweepConfig
from ecgray.search.folder import SweepFolder, read_lines, read_sweep_config
from ecgray.training.model_folder import read_json


@dataclass(frozen=True, kw_only=True)
class SweptTrial:
    """A trial as the study has it.

    state: COMPLETE, PRUNED, FAIL, RUNNING or WAITING; params: by dotted name; task: pretrained on; score: mean macro F1
    on validation; cost: device-seconds (NaN where there is none); probes: {pretraining steps: macro F1 of the probe};
    error, traceback: of one that failed.
    """

    number: int
    state: str
    params: dict[str, Any]
    task: str
    distributions: dict[str, str]
    score: float
    cost: float
    probes: dict[int, float]
    error: str | None
    traceback: str | None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Pretraining steps: ``whole`` if every trial had all of them, ``stopped`` saved by early stopping, ``failed`` not
    done by trials that failed, ``shared`` by trials with one pretraining, ``spent`` on the disk's evidence; seconds:
    device-seconds by kind of work."""

    whole: int
    spent: int
    stopped: int
    failed: int
    shared: int
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep's folder, read. finals: {"winner", "none", "paper"} to the trial's number; empty before the end."""

    folder: SweepFolder
    config: SweepConfig
    trials: list[SweptTrial]
    finals: dict[str, int]
    starts: list[dict[str, Any]]

    @property
    def complete(self) -> list[SweptTrial]:
        return [trial for trial in self.trials if trial.state == "COMPLETE"]

    @property
    def best(self) -> SweptTrial | None:
        return max(self.complete, key=lambda trial: (trial.score, -trial.number), default=None)

    @property
    def budget(self) -> Budget:
        """Of the trials that have ended."""
        ended = [trial for trial in self.trials if trial.state in ("COMPLETE", "PRUNED", "FAIL")]
        folders = {trial.number: (self.folder.trial(trial.number) / "pretraining").resolve() for trial in ended}
        done, seconds = dict.fromkeys(folders.values(), 0), {"pretraining": 0.0, "probes": 0.0, "finetuning": 0.0}
        for folder in done:
            work = [line for line in read_lines(folder / "work.jsonl") if type(line.get("steps")) is int]
            done[folder] = max((line["steps"] for line in work), default=0)
            for line in work:
                kind = "probes" if line["kind"] == "probe" else "pretraining"
                seconds[kind] += line["seconds"] * line["devices"]
        steps, stopped, failed = self.config.steps, 0, 0
        for trial in ended:
            if trial.state == "PRUNED":
                stopped += steps - max(trial.probes, default=0)
            elif trial.state == "FAIL":
                failed += steps - done[folders[trial.number]]
        whole, spent = len(ended) * steps, sum(done.values())
        for trial in self.complete:
            with contextlib.suppress(EcgrayError, KeyError, TypeError):
                stored = read_json(self.folder.trial(trial.number) / "result.json")
                seconds["finetuning"] += stored["finetune_seconds"] * stored["devices"]
        shared = max(0, whole - stopped - failed - spent)
        return Budget(whole=whole, spent=spent, stopped=stopped, failed=failed, shared=shared, seconds=seconds)


def is_sweep(folder: Path) -> bool:
    return SweepFolder(folder).config.is_file()


def read_sweep(path: Path) -> Sweep:
    """The sweep in the folder ``path``; raises EcgrayError when a file of it is missing or of another form."""
    folder = SweepFolder(path)
    rows, config = _read_list(folder.trials), read_sweep_config(folder)
    try:
        trials = [_trial(row, config.pretrain.task.name) for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EcgrayError(
            f"'{folder.trials}' must hold the trials of a sweep, got others ({' '.join(str(error).split())[:80]}); go "
            "on with 'ecgray sweep ... --resume'."
        ) from error
    finals: dict[str, int] = {}
    with contextlib.suppress(EcgrayError):
        finals = {name: int(n) for name, n in read_json(folder.final / "final.json").items() if type(n) is int}
    starts = read_json(folder.config).get("starts", [])
    return Sweep(folder=folder, config=config, trials=trials, finals=finals, starts=starts)


def _trial(row: dict[str, Any], task: str) -> SweptTrial:
    values = row["values"] or []
    return SweptTrial(
        number=int(row["number"]),
        state=str(row["state"]),
        params=dict(row["params"]),
        task=str(row["params"].get("pretrain.task", task)),
        distributions=dict(row["distributions"]),
        score=float(values[0]) if values else math.nan,
        cost=float(values[1]) if len(values) > 1 else math.nan,
        probes={int(steps): float(value) for steps, value in row["probes"].items()},
        error=row["error"],
        traceback=row["traceback"],
    )


def _read_list(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EcgrayError(f"'{path}' must be a JSON file ({error}); give the folder of a sweep.") from error
    return rows if isinstance(rows, list) else []
