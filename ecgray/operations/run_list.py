"""``ecgray runs``: the runs under a folder, each from what it has written itself; nothing is changed or locked."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ecgray.config import from_dict
from ecgray.errors import EcgrayError
from ecgray.evaluation.statistics import mean_sd
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.folder import seed_folder
from ecgray.finetuning.seed_run import CHOSEN, COMPLETE
from ecgray.finetuning.tested import Tested, tested_by
from ecgray.shards.storage import require_local
from ecgray.training.checkpoint import COMPLETE as MARKER
from ecgray.training.checkpoint import fault_of, read_loop_state
from ecgray.training.config import PretrainConfig
from ecgray.training.model_folder import json_lines, read_json
from ecgray.training.run import RunFolder, is_locked

State = Literal["running", "finished", "stopped", "failed", "damaged"]
Score = tuple[str, float, float | None]


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run. ``kind``: "pretrain", "finetune", "evaluate", or "other" for what this version does not know.

    done, total: steps, seeds or None where nobody can say; standing: where seeds are that are not done; score: (its
    name, value, sd over seeds or None), the best validation so far of a pretraining run, the scores of a finetuning
    run; tested: the records that a finetuning run tests on, or validates on where it has no test, None where it does
    not say so yet; changed: seconds since the epoch; note: why a run is failed or damaged, and how one that is stopped
    came to be so.
    """

    path: Path
    kind: str
    state: State
    done: int | None = None
    total: int | None = None
    unit: str = ""
    standing: str = ""
    score: Score | None = None
    tested: Tested | None = None
    changed: float = 0.0
    config_hash: str = ""
    note: str = ""


def list_runs(root: Path) -> list[RunRow]:
    """Every run in ``root``, at any depth, oldest change first. Raises EcgrayError when ``root`` is no folder here."""
    require_local(root, "The runs")
    if not root.is_dir():
        raise EcgrayError(f"Runs are looked for in a folder, got {root}, which is none; give the one above them.")
    return sorted((_row(folder) for folder in _folders(root)), key=lambda row: (row.changed, str(row.path)))


def _folders(root: Path) -> Iterator[Path]:
    """Folders with both JSON files of a run, or one of them and what a run keeps; runs lie in no known run."""
    for path, folders, files in os.walk(root):
        ours = {"config.json", "environment.json"}
        content = {"checkpoints", "seeds"} & set(folders)
        if ours <= set(files) or (ours & set(files) and content) or "evaluation.json" in files:
            yield Path(path)
        folders[:] = [] if content else sorted(name for name in folders if not name.startswith("."))


def _row(folder: Path) -> RunRow:
    kind = "evaluate" if (folder / "evaluation.json").is_file() else _kind_by_folders(folder)
    try:
        if kind == "evaluate":
            return _evaluated(folder)
        values, environment = read_json(folder / "config.json"), read_json(folder / "environment.json")
        kind = "pretrain" if "training" in values else "finetune" if "protocol" in values else kind
        return {"pretrain": _pretrained, "finetune": _finetuned}.get(kind, _other)(folder, values, environment)
    except (EcgrayError, OSError) as error:
        note = " ".join(str(error).split())
        return RunRow(path=folder, kind=kind, state="damaged", changed=_changed(folder), note=note)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        note = f"its files hold other things than a run's ({type(error).__name__}: {error})"
        return RunRow(path=folder, kind=kind, state="damaged", changed=_changed(folder), note=note)


def _kind_by_folders(folder: Path) -> str:
    return next((kind for name, kind in _KEEPS.items() if (folder / name).is_dir()), "other")


_KEEPS = {"checkpoints": "pretrain", "seeds": "finetune"}


def _pretrained(folder: Path, values: dict[str, Any], environment: dict[str, Any]) -> RunRow:
    config, run = from_dict(PretrainConfig, values, where=str(folder / "config.json")), RunFolder(folder)
    running = is_locked(folder / "lock")
    found = ((re.fullmatch(r"step-(\d+)", one.name), one) for one in run.checkpoints.glob("step-*"))
    whole = {int(match[1]): one for match, one in found if match and (one / MARKER).is_file()}
    if not running:  # one that is going on replaces files while they are looked at
        for one in whole.values():
            if (fault := fault_of(one, hashes=False)) is not None:
                raise EcgrayError(f"{one.name} is not whole: {fault}")
    saved = max(whole, default=0)
    looked_at, best = _best_saved(whole)
    lines = run.read_metrics(run.find_metrics(looked_at))
    done = max([saved, *(line["step"] for line in lines)]) if running else saved
    total = environment.get("steps") or config.training.steps
    state, note = _state(running, environment, complete=total is not None and saved >= total)
    if state == "finished" and not whole:
        raise EcgrayError("it ended, and no whole checkpoint is there")
    accuracies = [line["accuracy"] for line in lines if line.get("kind") == "validation"]
    accuracies += [] if best is None else [best]
    return RunRow(
        path=folder,
        kind="pretrain",
        state=state,
        done=done,
        total=total,
        unit="steps",
        score=("accuracy", float(max(accuracies)), None) if accuracies else None,
        changed=_changed(folder),
        config_hash=str(environment.get("config_hash", "")),
        note=note,
    )


def _best_saved(whole: Mapping[int, Path]) -> tuple[int, float | None]:
    """(step, accuracy): the best validation up to that step, by the newest checkpoint whose state reads. Those after it
    are in the metrics, which are too long to read them all."""
    for step in sorted(whole, reverse=True):
        with contextlib.suppress(EcgrayError):  # a run that is going on may just have removed it
            return step, read_loop_state(whole[step]).best_accuracy
    return 0, None


def _finetuned(folder: Path, values: dict[str, Any], environment: dict[str, Any]) -> RunRow:
    config = from_dict(FinetuneConfig, values, where=str(folder / "config.json"))
    seeds = [seed_folder(folder, seed) for seed in config.protocol.seed_numbers]
    scores = folder / "scores.json"
    closed = scores.is_file() and "test" not in read_json(scores)["splits"]  # the test of a trial is never opened
    done = sum((seed / (CHOSEN if closed else COMPLETE)).is_file() for seed in seeds)
    complete = done == len(seeds) and scores.is_file()
    state, note = _state(is_locked(folder / "lock"), environment, complete=complete)
    if state == "finished" and not complete:
        raise EcgrayError("it ended, and seeds or scores are missing")
    chosen = [float(read_json(seed / CHOSEN)["val_macro_f1"]) for seed in seeds if (seed / CHOSEN).is_file()]
    score: Score | None = None
    if chosen:
        mean, sd = mean_sd(chosen)
        score = ("val. macro F1", mean, None if math.isnan(sd) else sd)
    return RunRow(
        path=folder,
        kind="finetune",
        state=state,
        done=done,
        total=len(seeds),
        unit="seeds",
        standing="" if complete else _standing(seeds, done, len(chosen), config.protocol.epochs),
        score=_score(scores) if scores.is_file() else score,
        tested=tested_by(folder),
        changed=_changed(folder),
        config_hash=str(environment.get("config_hash", "")),
        note=note,
    )


def _standing(seeds: Sequence[Path], done: int, trained: int, epochs: int) -> str:
    """Of seeds that are not done: how many have trained, and the last epoch of each that is at it."""
    said = [f"{trained} trained, their test still closed"] if trained > done else []
    if done == len(seeds):
        said.append("not scored yet")
    for seed in seeds:
        metrics = seed / "metrics.jsonl"
        if metrics.is_file() and not (seed / CHOSEN).is_file():
            last = max((line.get("epoch", 0) for line in json_lines(metrics.read_bytes())), default=0)
            said.append(f"{seed.name.replace('-', ' ')} after epoch {last} of at most {epochs}")
    return ", ".join(said)


def _evaluated(folder: Path) -> RunRow:
    read_json(folder / "evaluation.json")
    score = _score(folder / "scores.json")
    tested, changed = tested_by(folder), _changed(folder)
    return RunRow(path=folder, kind="evaluate", state="finished", score=score, tested=tested, changed=changed)


def _other(folder: Path, values: dict[str, Any], environment: dict[str, Any]) -> RunRow:
    """A run of a kind that came later: what all of them have."""
    state, note = _state(is_locked(folder / "lock"), environment, complete=False)
    given = str(environment.get("config_hash", ""))
    return RunRow(path=folder, kind="other", state=state, changed=_changed(folder), config_hash=given, note=note)


def _state(running: bool, environment: dict[str, Any], *, complete: bool) -> tuple[State, str]:
    """By the lock, by what is there, by what the last start said at its end; one that said nothing was killed."""
    if running:
        return "running", ""
    ended = environment["starts"][-1].get("ended", {"state": "killed"})
    if complete or ended["state"] == "finished":
        return "finished", ""
    if ended["state"] == "failed":
        return "failed", str(ended.get("reason", ""))
    return "stopped", "killed" if ended["state"] == "killed" else ""


def _score(scores: Path) -> Score:
    """Macro F1 on the test records, or on validation where there is no test."""
    splits = read_json(scores)["splits"]
    split = "test" if "test" in splits else "val"
    values = splits[split]["scores"]["macro_f1"]
    sd = values["sd"]
    return f"{'test' if split == 'test' else 'val.'} macro F1", float(values["mean"]), None if sd is None else float(sd)


def _changed(folder: Path) -> float:
    """When a run last wrote something."""
    files = [folder / "environment.json", folder / "metrics.jsonl", folder / "scores.json", folder / "evaluation.json"]
    files += [*folder.glob("seeds/seed-*/metrics.jsonl"), *folder.glob(f"seeds/seed-*/{COMPLETE}")]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=folder.stat().st_mtime)
