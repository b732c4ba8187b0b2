"""The folder of a finetuning run.

config.json, environment.json      what was asked, and where it ran
splits.parquet                     seed, split, database, record, patient, label, signal_hash
seeds/seed-00/training.safetensors weights, moments and history after the last epoch, while the seed trains
seeds/seed-00/metrics.jsonl        a line per epoch
seeds/seed-00/chosen.json          which epoch counts: the seed has trained, its test is still closed
seeds/seed-00/model.safetensors, model.json, predictions.parquet, complete
predictions.parquet                seed, split, database, record, patient, label, predicted, probability_<class>
scores.json                        recomputed from predictions.parquet
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ecgray.config import config_hash, differing, from_dict, to_dict
from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig
from ecgray.shards.manifest import write_atomically
from ecgray.shards.storage import is_remote, resolve
from ecgray.shards.working import holds_other_files, working_copy
from ecgray.training.model_folder import read_json
from ecgray.training.run import RunFolder, describe_environment, end_recorded, locked, resumable

MAY_CHANGE = ("protocol.seeds", "data.shards", "data.test_shards", "pretrained")
"""Fields that a resumed run may be given anew: more seeds, and places whose content is compared instead."""


def seed_folder(run: Path, seed: int) -> Path:
    return run / "seeds" / f"seed-{seed:02d}"


def read_config(run: Path) -> FinetuneConfig:
    """The config of a finetuning run; raises EcgrayError when it is missing or of another kind."""
    if (run / "checkpoints").is_dir():
        raise EcgrayError(f"A finetuning run is needed, got {run}, which is a pretraining run; finetune from it first.")
    if not (run / "config.json").is_file():
        raise EcgrayError(f"A finetuning run is needed, got {run}, where there is none; give the --out of one.")
    return from_dict(FinetuneConfig, read_json(run / "config.json"), where=str(run / "config.json"))


def run_hash(config: FinetuneConfig, sources: dict[str, Any]) -> str:
    """The hash of what a run computes, with its data and its pretrained weights named by content, not by place."""
    data = replace(config.data, shards=json.dumps(sources["manifest_hashes"]), test_shards=sources["test"])
    return config_hash(replace(config, data=data, pretrained=sources["pretrained"]))


@contextlib.contextmanager
def open_folder(
    out: Path | str, config: FinetuneConfig, sources: dict[str, Any], details: dict[str, Any], *, resume: bool
) -> Iterator[RunFolder]:
    """The run folder ``out`` (a path or a URL), locked while in use, with config and environment written.

    ``sources`` names the content that the run rests on (manifest_hashes, test, pretrained); with ``details`` it goes
    into environment.json. A folder that holds anything is refused without ``resume``; with it, config and sources must
    be those that the run was started with, apart from the number of seeds, which may grow.
    """
    with contextlib.ExitStack() as stack:
        if is_remote(out):
            url = resolve(out)
            copy = stack.enter_context(working_copy(url, resume=resume, wanted=lambda n: not n.startswith("lock/")))
            run = RunFolder(copy[0], url, copy[1])
        else:
            run = RunFolder(Path(out).absolute())
        yield stack.enter_context(_open(run, config, sources, details, resume=resume))


@contextlib.contextmanager
def _open(
    run: RunFolder, config: FinetuneConfig, sources: dict[str, Any], details: dict[str, Any], *, resume: bool
) -> Iterator[RunFolder]:
    out = run.path
    if out.exists() and not out.is_dir():
        raise EcgrayError(f"The run must be a folder, got the file {out}; give another --out.")
    stored = out / "config.json"
    if not stored.is_file() and out.is_dir() and holds_other_files(out):
        raise EcgrayError(f"A run must go into a new folder, got {out}, which holds other files; give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "lock"):
        starts = []
        if stored.is_file():
            if not resume:
                raise EcgrayError(f"A run must go into a new folder, got {out}, which holds one; go on with --resume.")
            before = read_json(out / "environment.json")
            _refuse_other(read_config(out), config, before.get("sources"), sources)
            starts = before.get("starts", [])
        environment = describe_environment() | {
            "config_hash": run_hash(config, sources),
            "manifest_hashes": sources["manifest_hashes"],
            "sources": sources,
            "starts": [*starts, {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}],
        }
        write_json_atomically(out / "environment.json", environment | details)
        write_json_atomically(stored, to_dict(config))  # last: with it the folder is a run
        run.publish(run.environment, run.config)
        with end_recorded(run), resumable(run.place):
            try:
                yield run
            except KeyboardInterrupt:
                raise KeyboardInterrupt("every finished epoch is kept; go on with --resume") from None


def _refuse_other(
    stored: FinetuneConfig, given: FinetuneConfig, stored_sources: Any, given_sources: dict[str, Any]
) -> None:
    found = differing(stored, given, MAY_CHANGE)
    if given.protocol.seeds < stored.protocol.seeds:  # splits and scores must go on naming every seed that is there
        found.append(f"protocol.seeds ({stored.protocol.seeds} -> {given.protocol.seeds}, which may only grow)")
    if stored_sources != given_sources:
        found.append("the content of the shard sets or of the pretrained run")
    if found:
        raise EcgrayError(
            f"A run must be resumed with what it was started with, got others of: {', '.join(found)}; "
            "give the old ones back or start a new run."
        )


def write_json_atomically(path: Path, values: Any) -> None:
    write_atomically(path, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())


def write_parquet_atomically(path: Path, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())


def write_lines_atomically(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
