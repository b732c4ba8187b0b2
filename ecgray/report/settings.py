"""What a run was asked to do, compared with the recipe behind it and with the other runs, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecgray.config import flatten, to_dict
from ecgray.finetuning.config import FinetuneConfig
from ecgray.recipes import RECIPES, published
from ecgray.recipes.recipe import Recipe
from ecgray.report.read_runs import Run
from ecgray.training.config import PretrainConfig

PAPERS_DATABASE, PAPERS_ARCHIVE = "cinc2017", "icentia11k"
TEST_SHARE = 0.2
"""Share of all records that the paper tests on."""
PLACES = ("recipe", "data.shards", "data.test_shards", "pretrained")
"""Fields that name where things lie or where they came from, and decide no score."""
COUNTED = ("protocol.seeds", "protocol.first_seed", "protocol.epochs", "data.records", "data.seconds")
"""Finetuning budgets, which ``reduced_budget`` puts into words."""
LABELS = "data.labels"
"""What ``counted_labels`` puts into words."""
PRETRAINING_BUDGET = ("training.steps", "sampling.frames_per_patient")
SPEED_ONLY = (
    "training.compile",
    "training.threads",
    "training.accumulation",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "sampling.lanes",
)
"""Pretraining fields that change when and where things are computed and stored, not what is learnt from."""


def differences(config: Any, base: Any, ignored: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """{dotted name: (value, value in base)} where two configs differ."""
    a, b = flatten(to_dict(config)), flatten(to_dict(base))
    names = [name for name in (*a, *(set(b) - set(a))) if name not in ignored]
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def find_row(run: Run) -> Recipe | None:
    """The published row that a run belongs to: of the rows with its pretraining, the one whose settings are nearest.

    None where the run was pretrained by no recipe of a paper, on another task than its recipe's, or by a run that is no
    longer known.
    """
    if run.config.pretrained is None:
        start = None
    elif run.pretraining is not None and run.pretraining.config is not None:
        config = run.pretraining.config
        start = config.recipe
        if start not in RECIPES or _task(RECIPES[start].make()) != config.task.name:
            return None
    else:
        return None
    rows = [
        recipe
        for recipe in RECIPES.values()
        if recipe.stage == "finetune" and recipe.published and recipe.pretrained_by == start
    ]
    return min(
        rows,
        key=lambda recipe: (len(differences(run.config, recipe.make(), PLACES)), recipe.name != run.config.recipe),
        default=None,
    )


def _task(config: PretrainConfig | FinetuneConfig) -> str | None:
    return config.task.name if isinstance(config, PretrainConfig) else None


def reduced_budget(run: Run, recipe: Recipe | None) -> list[str]:
    """In words, how the run is smaller than the recipe's full config: "3 of 10 seeds", "20 of 60 s"."""
    full: Any = recipe.make() if recipe is not None else FinetuneConfig()
    words = []
    if len(run.seeds) < full.protocol.seeds:
        words.append(f"{len(run.seeds)} of {full.protocol.seeds} seeds")
    records, (papers, what) = int(run.environment["records"]), _papers_records(run)
    if run.trained_on == {PAPERS_DATABASE} and records < papers:
        words.append(f"{records:,} of {papers:,} {what}")
    elif run.config.data.records is not None:
        words.append(f"a sample of {records:,} records")
    if run.config.data.seconds < full.data.seconds:
        words.append(f"{run.config.data.seconds:g} of {full.data.seconds:g} s")
    if run.config.protocol.epochs < full.protocol.epochs:
        words.append(f"{run.config.protocol.epochs} of {full.protocol.epochs} epochs")
    return words + _reduced_pretraining(run)


def _papers_records(run: Run) -> tuple[int, str]:
    """How many records the paper's design has where this run has its own, and what they are: all, or those beside a
    test set that is held elsewhere."""
    if run.config.data.test_shards is None:
        return published.RECORDS, "records"
    return round((1 - TEST_SHARE) * published.RECORDS), "records to train and validate on"


def _reduced_pretraining(run: Run) -> list[str]:
    before = run.pretraining
    if before is None:
        return []
    words = []
    if before.config is None:
        words.append("pretraining run no longer found")
    elif before.frames is not None and before.frames < published.PRETRAINING_FRAMES:
        words.append(f"pretrained on {_count(before.frames)} of {_count(published.PRETRAINING_FRAMES)} frames")
    if before.databases and set(before.databases) != {PAPERS_ARCHIVE}:
        words.append(f"pretrained on {', '.join(before.databases)} instead of {PAPERS_ARCHIVE}")
    return words


def other_test_set(run: Run) -> str | None:
    """In words, how the scored records are not the paper's test set; None for a fifth of the whole CinC 2017 set."""
    databases = sorted(set(run.scored["database"]))
    count = run.scored[["database", "record"]].drop_duplicates().shape[0]
    if run.split == "val":
        return f"scores of {count:,} validation records: the run has no test records"
    if databases != [PAPERS_DATABASE]:
        return f"tested on {count:,} records of {', '.join(databases)}, not of {PAPERS_DATABASE}"
    everything = run.splits[run.splits["database"] == PAPERS_DATABASE]["record"].nunique()
    if everything >= published.RECORDS and abs(count / everything - TEST_SHARE) < 0.01:
        return None
    if run.evaluation is not None or run.config.data.test_shards is not None:
        return f"tested on {count:,} records of another shard set, not on a fifth of all {published.RECORDS:,}"
    return f"tested on {count:,} records out of a part of CinC 2017, not on a fifth of all {published.RECORDS:,}"


def counted_labels(run: Run) -> list[str]:
    """In words, which labels count as others, in the run's own records and in those of its evaluation."""
    return [
        f"{whose}labels {', '.join(map(_counted, labels))}"
        for whose, labels in (
            ("" if run.evaluation is None else "in its training, ", run.config.data.labels),
            ("", run.evaluated_labels),
        )
        if labels
    ]


def _counted(pair: str) -> str:
    label, _, other = pair.partition("=")
    return f"{label} counted as {other}" if other else f"{label} left out"


def other_settings(run: Run, recipe: Recipe | None) -> list[str]:
    """Settings besides the budget that are not the recipe's: "model.width 8 instead of 64"."""
    if recipe is None:
        return []
    found = differences(run.config, recipe.make(), (*PLACES, *COUNTED, LABELS))
    words = [_instead(name, *values) for name, values in found.items()]
    before = None if run.pretraining is None else run.pretraining.config
    if before is not None and recipe.pretrained_by is not None:
        words += [f"pretraining {_instead(*item)}" for item in _pretraining_differences(before, recipe.pretrained_by)]
    return words


def _pretraining_differences(config: PretrainConfig, recipe: str) -> list[tuple[str, Any, Any]]:
    ignored = (*PLACES, *PRETRAINING_BUDGET, *SPEED_ONLY)
    found = differences(config, RECIPES[recipe].make(), ignored)
    # The network is the finetuning run's own, and said there.
    return [(name, *values) for name, values in found.items() if not name.startswith("model.")]


def _instead(name: str, value: Any, full: Any) -> str:
    return f"{name} {_shown(value)} instead of {_shown(full)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1_000_000 else f"{number:,}"


def between_runs(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(dotted name, value per run) of every setting in which the runs differ."""
    tables = [flatten(to_dict(run.config)) for run in runs]
    names = list(dict.fromkeys(name for table in tables for name in table))
    rows = [(name, [_shown(table.get(name)) for table in tables]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def label(run: Run) -> str:
    """What tells a run from others: its pretraining task, or the recipe's name where there is none to name."""
    if run.config.pretrained is None:
        return "none"
    if run.pretraining is None or run.pretraining.config is None:
        return "pretrained"
    return run.pretraining.config.task.name.replace("_", " ")


def labels(runs: Sequence[Run]) -> list[str]:
    """A distinct name per run: the pretraining, then what tells equals apart: settings, test set, folder."""
    names = [label(run) for run in runs]
    varying = {
        name: values for name, values in between_runs(runs) if name not in (*PLACES, "protocol.seeds") and name in SHORT
    }
    for name, values in varying.items():
        shown = ["all" if value == "none" else value for value in values]
        names = [f"{said}, {SHORT[name].format(value)}" for said, value in zip(names, shown, strict=True)]
    tests = test_names(runs)
    if len(set(tests)) > 1:
        names = [f"{name}, on {test}" for name, test in zip(names, tests, strict=True)]
    places = [str(run.evaluation or run.folder) for run in runs]
    return [
        f"{name} ({_tail(place, places)})" if names.count(name) > 1 else name
        for name, place in zip(names, places, strict=True)
    ]


def test_names(runs: Sequence[Run]) -> list[str]:
    """A name per run that is the same for the same scored records alone: their databases, where these do not tell them
    apart their number too, and where that does not a number of the set."""
    scored = [run.scored_records for run in runs]
    for names in ([run.tested.name for run in runs], [str(run.tested) for run in runs]):
        if len(set(names)) == len(set(scored)):
            return names
    order = list(dict.fromkeys(scored))
    return [f"{name}, set {order.index(one) + 1}" for name, one in zip(names, scored, strict=True)]


def _tail(place: str, places: Sequence[str]) -> str:
    """The shortest end of a path that is the end of no other of ``places``."""
    parts = place.split("/")
    ends = ("/".join(parts[-length:]) for length in range(1, len(parts) + 1))
    return next((end for end in ends if sum(f"/{other}".endswith(f"/{end}") for other in places) == 1), place)


SHORT = {
    "data.fs": "{} Hz",
    "data.train_fraction": "{} of the records",
    "data.records": "{} records",
    "data.seconds": "{} s",
    "model.depth": "depth {}",
    "model.width": "width {}",
    "protocol.epochs": "{} epochs",
}
"""Settings that are short enough to stand in a run's name."""
