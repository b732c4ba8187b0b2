"""A sweep with early stopping against the same one without it; and how much of a sweep's time is no training.

    python benchmarks/sweep.py [--trials 40] [--steps 90] [--long-trials 6] [--long-steps 500]

The space of the paper's pretraining (task, frame size, depth, learning rate, future prediction's numbers) over
synthetic hearts, one seed for both, so that they begin with the same trials; none opens a test record. The best score
is the macro F1 on validation over the winner's finetuning seeds. The time of trials is measured on a third sweep, over
learning rates alone and without early stopping, whose trials take about a minute: what is no training is the time of
the slots in which no pretraining, probe or finetuning ran, from the first trial's start to the last one's end.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from measure import Bar, keep, show_bars, show_table, words
from optuna.trial import BaseTrial

from ecgray.databases import DATABASES
from ecgray.databases.synthesise import write_ambulatory, write_labelled
from ecgray.models import ResNet
from ecgray.recipes import SPACES
from ecgray.search.config import ProbeConfig, SearchConfig, SweepConfig
from ecgray.search.space import Space
from ecgray.search.sweep import Resources, sweep
from ecgray.shards.ingest import ingest

PRETRAINING = SPACES["weimann2021_pretraining"]
SLOTS = 2


def synthetic_shards(folder: Path, records: int) -> tuple[str, str]:
    """Ambulatory and labelled synthetic hearts as shard sets."""
    write_ambulatory(folder / "ambulatory", patients=24, segments_per_patient=2, segment_seconds=600, seed=1)
    write_labelled(folder / "labelled", records=records, seed=2)
    for name in ("ambulatory", "labelled"):
        ingest(DATABASES["synthetic"](), folder / name, folder / "shards" / name, workers=0, progress=False)
    return str(folder / "shards" / "ambulatory"), str(folder / "shards" / "labelled")


def config_of(space: Space, shards: tuple[str, str], steps: int, search: SearchConfig, width: int) -> SweepConfig:
    """Small networks and few frames, whatever the space leaves open."""
    pretrain, finetune = space.make()
    return SweepConfig(
        space=space.name,
        pretrain=replace(
            pretrain,
            data=replace(pretrain.data, shards=(shards[0],)),
            sampling=replace(pretrain.sampling, val_fraction=0.25, val_frames_per_patient=8),
            model=ResNet(width=width),
            training=replace(
                pretrain.training, steps=steps, batch_size=16, validate_every=steps, checkpoint_every=steps
            ),
        ),
        finetune=replace(
            finetune,
            data=replace(finetune.data, shards=shards[1], seconds=10.0, train_fraction=0.5),
            protocol=replace(finetune.protocol, batch_size=16, epochs=6, patience=6, val_fraction=0.2),
        ),
        search=search,
        probe=ProbeConfig(epochs=4),
    )


def suggest_rate(trial: BaseTrial) -> None:
    """Of trials that all take equally long."""
    trial.suggest_float("pretrain.optimiser.learning_rate", 1e-4, 1e-2, log=True)


def run(space: Space, config: SweepConfig, out: Path) -> dict[str, Any]:
    """The sweep, and what its folder says: trials by state, steps, seconds in training and the best score."""
    sweep(space, config, out, resources=Resources(concurrent=SLOTS))
    rows = json.loads((out / "trials.json").read_text())
    times = [datetime.fromisoformat(row[key]) for row in rows for key in ("started", "ended")]
    done = [json.loads(line) for file in out.glob("pretraining/*/work.jsonl") for line in file.read_text().splitlines()]
    # Trials that share a pretraining share its folder, and its steps are done once.
    reached = [
        max(int(step.name.removeprefix("step-")) for step in folder.glob("run/checkpoints/step-*"))
        for folder in out.glob("pretraining/*")
    ]
    finetuned = [json.loads(file.read_text())["finetune_seconds"] for file in out.glob("trials/*/result.json")]
    best = max((row for row in rows if row["values"]), key=lambda row: row["values"][0])
    scores = json.loads((out / "trials" / f"trial-{best['number']:04d}" / "finetune" / "scores.json").read_text())
    return {
        "trials": {state: sum(row["state"] == state for row in rows) for state in ("COMPLETE", "PRUNED", "FAIL")},
        "steps": sum(reached),
        "wall_s": (max(times) - min(times)).total_seconds(),
        "training_s": sum(line["seconds"] for line in done) + sum(finetuned),
        "best": scores["splits"]["val"]["scores"]["macro_f1"] | {"trial": best["number"], "params": best["params"]},
    }


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--steps", type=int, default=90, help="of a trial's pretraining")
    parser.add_argument("--records", type=int, default=240, help="labelled ones")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--long-trials", type=int, default=6)
    parser.add_argument("--long-steps", type=int, default=500, help="so that a trial takes about 60 s")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ecgray-bench-") as name:
        folder = Path(name)
        shards = synthetic_shards(folder, given.records)
        search = SearchConfig(trials=given.trials, seeds=3, final_seeds=0)
        for way, stopping in (("with early stopping", True), ("without", False)):
            config = config_of(PRETRAINING, shards, given.steps, replace(search, early_stopping=stopping), given.width)
            found[way] = run(PRETRAINING, config, folder / way.replace(" ", "-"))
        space = replace(PRETRAINING, suggest=suggest_rate, paper=())
        search = SearchConfig(trials=given.long_trials, early_stopping=False, seeds=3, final_seeds=0)
        found["long trials"] = run(space, config_of(space, shards, given.long_steps, search, 16), folder / "long")
    show(found, given)


def show(found: Mapping[str, Any], given: Any) -> None:
    stopping, whole, long = (found[way] for way in ("with early stopping", "without", "long trials"))
    show_table(
        f"{given.trials} trials, {SLOTS} at a time",
        ["", "complete", "pruned", "failed", "steps", "wall, s", "in training, s", "best macro F1 +- sd (validation)"],
        [
            (
                way,
                *one["trials"].values(),
                one["steps"],
                f"{one['wall_s']:.0f}",
                f"{one['training_s']:.0f}",
                f"{one['best']['mean']:.3f} +- {one['best']['sd']:.3f}",
            )
            for way, one in found.items()
        ],
    )
    trial_s = SLOTS * long["wall_s"] / given.long_trials
    idle = 1 - long["training_s"] / (SLOTS * long["wall_s"])
    print(f"Long trials took {trial_s:.0f} s each.")
    sd = max(stopping["best"]["sd"], whole["best"]["sd"])
    bars = [
        Bar("steps with early stopping / without", stopping["steps"] / whole["steps"], most=0.5),
        Bar("best score lost, in its sd over seeds", (whole["best"]["mean"] - stopping["best"]["mean"]) / sd, most=1),
        Bar(f"time not in training, trials of {trial_s:.0f} s", idle, most=0.1),
    ]
    show_bars(bars)
    keep(given.out, "sweep", {"sweeps": found, "long_trial_s": trial_s}, bars)


if __name__ == "__main__":
    main()
