"""What this state of ecgray computes, as SHA-256 sums, and where another state differs.

    python tests/golden/freeze.py OUT.json                  # about ten minutes on two quiet cores
    python tests/golden/freeze.py --compare OLD.json NEW.json

A change that must leave every number as it is gets both files on one machine: OLD.json from a checkout of the state
before it, NEW.json from its own. Sums hold for one processor and the same versions of torch and numpy alone, so none
is kept here. They are sums of values, not of files: tensors by their names, columns of tables, lines of metrics
without times. Another format of the same values gives the same sums.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

TASKS = ("beat", "rhythm", "heart_rate", "future")
PLACES = ((0, "fp32"), (1, "fp32"), (2, "fp32"), (0, "bf16"))
"""Workers and precision of each task's run."""
FRAMES = 10_000
TIMES = {"frames_per_s", "waiting_for_data", "seconds", "time"}
"""Fields of metrics that no two runs share."""
PRETRAIN = (
    "--model.width 8 --sampling.frame-size 512 --sampling.val-fraction 0.2 --sampling.val-frames-per-patient 16 "
    "--training.batch-size 16 --training.steps 40 --training.validate-every 20 --training.checkpoint-every 20 "
    "--training.log-every 1 --training.threads 1"
)
FINETUNE = "--seeds 3 --model.width 8 --data.seconds 10 --protocol.epochs 3 --protocol.batch-size 32"


def ecgray(*words: object) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ecgray", *map(str, words)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"ecgray {' '.join(map(str, words))} ended with {done.returncode}: {done.stderr[-2000:]}")


def sum_of(*parts: Any) -> str:
    """Of arrays by type, shape and bytes, of anything else by its JSON."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def tensors(file: Path) -> str:
    found = load_file(file)
    return sum_of(*(part for name in sorted(found) for part in (name, found[name])))


def table(frame: pd.DataFrame) -> str:
    """Columns by name, rows in their order."""
    return sum_of(*(part for name in sorted(frame) for part in (name, [str(value) for value in frame[name]])))


def metrics(file: Path) -> str:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return sum_of([{name: value for name, value in row.items() if name not in TIMES} for row in rows])


def shard_set(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.glob("shard-*/*.npy")):
        yield f"{file.parent.name}/{file.name}", sum_of(np.load(file))
    records = pd.read_parquet(folder / "records.parquet")
    for column in records:
        values = [value.tolist() if isinstance(value, np.ndarray) else value for value in records[column]]
        yield f"records/{column}", sum_of([str(value) for value in values])
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("fs", "leads", "records", "patients", "samples", "mean_mv", "sd_mv", "beats", "labels", "symbols"):
        yield f"manifest/{name}", sum_of(manifest[name])


def plan(folder: Path) -> Iterator[tuple[str, str]]:
    from ecgray.sampling.plan import SamplingConfig, make_plan
    from ecgray.shards.archive import open_archive
    from ecgray.tasks import TASKS as TABLE

    archive = open_archive([folder])
    for task in TASKS:
        entry = TABLE[task]
        sampling = SamplingConfig(frame_size=512, val_fraction=0.2, lanes=8, val_frames_per_patient=16)
        made = make_plan(archive, sampling, entry() if isinstance(entry, type) else entry, 64)
        steps = FRAMES // 64 + 1
        yield f"{task}/frames", sum_of(*made.frames(0, steps, range(8)))
        yield f"{task}/validation", sum_of(*made.validation())
        if made.negatives_per_frame:
            yield f"{task}/negatives", sum_of(*made.negatives(0, steps, range(8)))
            yield f"{task}/validation negatives", sum_of(*made.validation_negatives())


def pretraining(run: Path) -> Iterator[tuple[str, str]]:
    for checkpoint in sorted((run / "checkpoints").iterdir()):
        for file in sorted(checkpoint.glob("*.safetensors")):
            yield f"{checkpoint.name}/{file.stem}", tensors(file)
    yield "metrics", metrics(run / "metrics.jsonl")


def finetuning(run: Path) -> Iterator[tuple[str, str]]:
    yield "splits", table(pd.read_parquet(run / "splits.parquet"))
    yield "predictions", table(pd.read_parquet(run / "predictions.parquet"))
    yield "scores", sum_of(json.loads((run / "scores.json").read_text()))
    for seed in sorted((run / "seeds").iterdir()):
        yield f"{seed.name}/weights", tensors(seed / "model.safetensors")
        yield f"{seed.name}/metrics", metrics(seed / "metrics.jsonl")


def everything(folder: Path) -> Iterator[tuple[str, str]]:
    """(what, its sum), as it comes."""
    ambulatory, labelled = folder / "ambulatory", folder / "labelled"
    ecgray("synthesise", "ambulatory", folder / "a", "--patients", 12, "--segment-seconds", 300, "--seed", 1)
    ecgray("synthesise", "labelled", folder / "l", "--records", 160, "--seed", 2)
    for files, shards in ((folder / "a", ambulatory), (folder / "l", labelled)):
        ecgray("ingest", "synthetic", files, "--out", shards, "--workers", 0)
        yield from _under(f"shards/{shards.name}", shard_set(shards))
    yield from _under("plan", plan(ambulatory))
    for task in TASKS:
        for workers, precision in PLACES:
            run = folder / f"{task}-{workers}-{precision}"
            words = [*PRETRAIN.split(), "--workers", workers, "--training.precision", precision]
            ecgray("pretrain", f"weimann2021_{task}", "--data", ambulatory, "--out", run, *words)
            yield from _under(f"pretrain/{task}/{workers} workers/{precision}", pretraining(run))
    for name, pretrained in (("random", "none"), ("beat", folder / "beat-0-fp32")):
        recipe = "weimann2021_cinc2017" if pretrained != "none" else "weimann2021_table1_none"
        run = folder / f"finetune-{name}"
        ecgray("finetune", recipe, "--data", labelled, "--pretrained", pretrained, "--out", run, *FINETUNE.split())
        yield from _under(f"finetune/{name}", finetuning(run))


def _under(name: str, sums: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for what, digest in sums:
        yield f"{name}/{what}", digest


def compare(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """What differs, a line each."""
    lines = [f"only in the old state: {name}" for name in old if name not in new]
    lines += [f"only in the new state: {name}" for name in new if name not in old]
    return lines + [f"differs: {name}" for name in old if name in new and old[name] != new[name]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"))
    given = parser.parse_args()
    if given.compare:
        old, new = (json.loads(file.read_text()) for file in given.compare)
        lines = compare(old, new)
        print("\n".join([*lines, f"{len(lines)} differences among {len(old)} sums"]))
        return 1 if lines else 0
    if given.out is None:
        parser.error("give a file for the sums, or --compare")
    with tempfile.TemporaryDirectory(prefix="ecgray-golden-") as name:
        sums = {}
        for what, digest in everything(Path(name)):
            sums[what] = digest
            print(what, digest[:12], flush=True)
    given.out.write_text(json.dumps(sums, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
