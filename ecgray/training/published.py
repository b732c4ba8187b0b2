"""Checkpoints of a run at a URL: published file by file, the marker last, and fetched whole.

Each rank publishes the files that it wrote on its own machine; the first rank's marker names all of them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ecgray.errors import EcgrayError
from ecgray.shards.storage import join, list_files, read_bytes, remove, resolve, upload
from ecgray.shards.working import fetched, pull
from ecgray.training.checkpoint import (
    COMPLETE,
    complete_checkpoint,
    fault_of,
    fingerprint,
    newest_checkpoint,
    rank_file,
    step_folder,
)
from ecgray.training.distributed import Distributed
from ecgray.training.model_folder import read_json
from ecgray.training.run import RunFolder

log = logging.getLogger(__name__)
FOLDER = "checkpoints"


def publish_checkpoint(
    run: RunFolder,
    step: int,
    distributed: Distributed,
    *,
    shared: Callable[[Path], None],
    own: Callable[[Path], None],
) -> str:
    """``write_checkpoint`` for a run at a URL: into its working copy, then to the storage, by every rank.

    Raises EcgrayError when the local disk refuses, when another process has taken the run over, and as the storage
    does.
    """
    root, url = run.checkpoints, str(run.url)
    target = step_folder(root, step)
    there = join(url, FOLDER, target.name)
    partial = target.with_name(f".{target.name}.partial-{distributed.rank}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        own(partial)
        if distributed.first:
            shared(partial)
            run.refuse_lost()
            remove(there)  # a torn one of the same step
        distributed.wait()
        for file in sorted(partial.iterdir()):
            upload(file, join(there, file.name))
        listing = _all_files(partial, distributed)
        if distributed.first:
            complete_checkpoint(partial, target, listing)
            run.refuse_lost()
            upload(target / COMPLETE, join(there, COMPLETE))
        else:
            shutil.rmtree(partial)
        distributed.wait()
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise EcgrayError(
            f"The checkpoint of step {step} must be written to {root} on its way to {url}, got: {error}; "
            "free some space or mend the permissions, then --resume."
        ) from error
    return there


def _all_files(folder: Path, distributed: Distributed) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the checkpoint's files: those in ``folder``, and the one of each other rank."""
    listing: dict[str, dict[str, Any]] = {file.name: fingerprint(file) for file in sorted(folder.iterdir())}
    if distributed.size == 1:
        return listing
    mine = listing[rank_file(distributed.rank)]
    table = torch.zeros(distributed.size, 33, dtype=torch.float64, device=distributed.device)
    table[distributed.rank] = torch.tensor([mine["bytes"], *bytes.fromhex(mine["sha256"])], dtype=torch.float64)
    for rank, (size, *digest) in enumerate(distributed.sum(table).long().tolist()):
        listing[rank_file(rank)] = {"bytes": size, "sha256": bytes(digest).hex()}
    return dict(sorted(listing.items()))


def newest_published(url: str) -> int | None:
    """The step of the newest checkpoint at ``url`` whose marker is there and whose files have its sizes."""
    for step, files in reversed(_published(url)):
        if COMPLETE not in files:
            continue
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            listing = json.loads(read_bytes(join(url, FOLDER, _name(step), COMPLETE)))["files"]
            if all(files.get(name) == entry["bytes"] for name, entry in listing.items()):
                return step
        log.warning("%s is not whole; taking the checkpoint before.", join(url, FOLDER, _name(step)))
    return None


def newest_step(run: RunFolder) -> int:
    """The step of the newest whole checkpoint of a run, where it is published or in its folder; 0 where it has none."""
    if run.url is not None:
        return newest_published(run.url) or 0
    newest = newest_checkpoint(run.checkpoints)
    return 0 if newest is None else int(newest.name.removeprefix("step-"))


def fetch_checkpoint(url: str, step: int, folder: Path) -> Path:
    """The published checkpoint of ``step`` in the local ``folder`` of checkpoints, every file of it checked.

    What lies there already may be this machine's own of that step, which it never published, or of another run that
    had this URL: only the files that are published stay. Raises EcgrayError when they are not whole.
    """
    target = step_folder(folder, step)
    there = join(url, FOLDER, target.name)
    pull(there, target, lambda name: True)
    fault = fault_of(target)
    if fault is not None:
        shutil.rmtree(target)
        raise EcgrayError(f"A checkpoint must be whole, got {there}, where {fault}; remove it and --resume.")
    published = {COMPLETE, *read_json(target / COMPLETE)["files"]}
    for file in target.glob("[!.]*"):
        if file.name not in published:
            file.unlink(missing_ok=True)  # the other ranks of this machine do the same
    return target


def fetched_run(place: str | Path) -> Path:
    """This machine's copy of the run (or checkpoint, or seed) at a URL, as far as reading it takes.

    Of a pretraining run that is its best checkpoint, else the newest; of a finetuning run all but the states of seeds
    in training. Raises EcgrayError where nothing is.
    """
    url = resolve(place)
    inside = re.fullmatch(r"(.+)/(checkpoints|seeds)/([^/]+)", url)
    run, part = (inside[1], f"{inside[2]}/{inside[3]}/") if inside else (url, "")
    files = list_files(url)
    if not files:
        raise EcgrayError(f"A run must be a folder, got {url}, where nothing is; give the --out of a run.")
    if part:
        names = {part + name for name in files} | {"config.json"}
        return fetched(run, lambda name: name in names) / part
    if not any(name.startswith(f"{FOLDER}/") for name in files):
        return fetched(url, lambda name: not name.startswith("lock/") and not name.endswith("/training.safetensors"))
    chosen = ""
    with contextlib.suppress(FileNotFoundError):
        chosen = read_bytes(join(url, "best")).decode(errors="replace")
    if f"{FOLDER}/{chosen}/{COMPLETE}" not in files:
        step = newest_published(url)
        if step is None:
            raise EcgrayError(f"A run must hold a finished checkpoint, got none in {url}; train it first (--resume).")
        chosen = _name(step)
    beside = ("config.json", "environment.json", "metrics.jsonl")
    copy = fetched(url, lambda name: name in beside or name.startswith(f"{FOLDER}/{chosen}/"))
    link = copy / f".best.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(FOLDER, chosen))
    link.rename(copy / "best")
    return copy


def unmark_newer_published(url: str, step: int) -> None:
    """``unmark_newer`` for what is published."""
    for later, files in _published(url):
        if later > step and COMPLETE in files:
            remove(join(url, FOLDER, _name(later), COMPLETE))


def prune_published(url: str, keep: int, best_step: int | None) -> None:
    """``prune_checkpoints`` for what is published."""
    found = _published(url)
    whole = [step for step, files in found if COMPLETE in files]
    for step, files in found:
        there = join(url, FOLDER, _name(step))
        if COMPLETE not in files:
            remove(there)
        elif step not in whole[-keep:] and step != best_step:
            remove(join(there, COMPLETE))  # first: a half-removed checkpoint never counts
            remove(there)


def _published(url: str) -> list[tuple[int, dict[str, int]]]:
    """(step, bytes of its files) of everything named like a checkpoint, oldest first."""
    steps: dict[int, dict[str, int]] = {}
    for name, size in list_files(join(url, FOLDER)).items():
        match = re.fullmatch(r"step-(\d{1,18})/([^/]+)", name)
        if match:
            steps.setdefault(int(match[1]), {})[match[2]] = size
    return sorted(steps.items())


def _name(step: int) -> str:
    return step_folder(Path(), step).name
