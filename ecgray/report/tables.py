"""From stored predictions to the rows of the report: scores, published numbers beside, comparisons with "none"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgray.config import config_hash, flatten, to_dict
from ecgray.evaluation.scores import score_predictions
from ecgray.evaluation.statistics import compare_with_baseline, relative_improvement
from ecgray.recipes.published import Score
from ecgray.recipes.recipe import Recipe
from ecgray.report import settings
from ecgray.report.read_runs import Run

CLASS_WORDS = {"N": "normal", "A": "AF", "O": "other", "~": "noisy"}
SPLIT_FIELDS = ["database", "record", "split"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A score of a run over its seeds: mean, sd (n - 1), 95 % interval; NaN where there is none."""

    values: tuple[float, ...]
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run with its scores by name and all that must stand beside them.

    confusion: (classes, classes) counts over seeds, true by predicted; recipe: the published row, None where there is
    none; budget, test_set, other: in words, how the run is not that row's; absent: which classes are scored without a
    record, None where all have some; improvement and published_improvement: share of the score of "none", NaN without.
    """

    run: Run
    label: str
    scores: dict[str, Cell]
    confusion: npt.NDArray[np.int64]
    recipe: Recipe | None
    budget: list[str]
    test_set: str | None
    other: list[str]
    absent: str | None
    improvement: float = math.nan
    published_improvement: float = math.nan

    @property
    def published(self) -> dict[str, Score]:
        return dict(self.recipe.published) if self.recipe is not None else {}

    @property
    def scored_records(self) -> str:
        return self.run.scored_records

    @property
    def caveats(self) -> list[str]:
        return [*self.budget, *([self.test_set] if self.test_set else []), *self.other, *filter(None, [self.absent])]


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Runs that differ in their pretraining alone, against the one without (``compare_with_baseline``'s table)."""

    baseline: str
    train_records: int
    test_records: int
    table: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All numbers of a report. apart: labels of the runs that no run without pretraining can be paired with."""

    rows: list[Row]
    classes: tuple[str, ...]
    comparisons: list[Comparisons] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)

    @property
    def score_names(self) -> list[str]:
        """Columns of the main table: macro F1, F1 per class, and the official score where it is defined."""
        official = ["official_f1"] if any("official_f1" in row.scores for row in self.rows) else []
        return ["macro_f1", *(f"f1_{name}" for name in self.classes), *official]

    @property
    def ranked(self) -> list[list[Row]]:
        """Runs that were scored on the same records; no order holds between runs of two of these lists."""
        same: dict[str, list[Row]] = {}
        for row in self.rows:
            same.setdefault(row.scored_records, []).append(row)
        return list(same.values())

    @property
    def best(self) -> Row:
        """The best of the runs that were scored on the same records as the first one."""
        return best_of(self.ranked[0])


def best_of(same: Sequence[Row]) -> Row:
    """The highest macro F1 of runs that were scored on the same records; of equals the first."""
    return max(same, key=lambda row: row.scores["macro_f1"].mean)


def make_tables(runs: Sequence[Run]) -> Tables:
    """Scores every run from its predictions and compares those that share their splits."""
    rows = [_row(run, label) for run, label in zip(runs, settings.labels(runs), strict=True)]
    classes = tuple(dict.fromkeys(name for run in runs for name in run.classes))
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(_paired_by(run), []).append(index)
    comparisons, apart = [], []
    for members in groups.values():
        baseline = next((i for i in members if runs[i].config.pretrained is None), None)
        if baseline is None:
            apart += [rows[i].label for i in members]
            continue
        others = [i for i in members if runs[i].config.pretrained is not None]
        shared = [i for i in others if _shared_seeds(runs[i], runs[baseline])]
        apart += [rows[i].label for i in others if i not in shared]
        if shared:
            comparisons.append(_comparisons(rows, baseline, shared))
            for index, improvement in zip(shared, comparisons[-1].table["relative_improvement"], strict=True):
                rows[index] = _improved(rows[index], rows[baseline], float(improvement))
    return Tables(rows=rows, classes=classes, comparisons=comparisons, apart=apart)


def _row(run: Run, label: str) -> Row:
    scored = score_predictions(run.scored, run.classes)["splits"][run.split]
    recipe = settings.find_row(run)
    return Row(
        run=run,
        label=label,
        scores={name: _cell(values) for name, values in scored["scores"].items()},
        confusion=np.asarray(scored["confusion"], np.int64),
        recipe=recipe,
        budget=settings.reduced_budget(run, recipe),
        test_set=settings.other_test_set(run),
        other=settings.counted_labels(run) + settings.other_settings(run, recipe),
        absent=_absent(run.split, scored["absent"]),
    )


def _absent(split: str, classes: Sequence[str]) -> str | None:
    if not classes:
        return None
    names = ", ".join(CLASS_WORDS.get(name, name) for name in classes)
    records = "test" if split == "test" else "validation"
    return f"no {records} record of {names} in at least one seed: its F1 is 0 there, which the macro F1 counts"


def _cell(values: dict[str, Any]) -> Cell:
    numbers = {key: math.nan if values[key] is None else values[key] for key in ("mean", "sd", "low", "high")}
    return Cell(values=tuple(values["values"]), **numbers)


def _paired_by(run: Run) -> str:
    """Equal for runs that may differ in pretraining, its freezing, and seeds: same settings, data, scored records."""
    same = {
        name: value
        for name, value in flatten(to_dict(run.config)).items()
        if name not in (*settings.PLACES, "freeze_blocks", "protocol.seeds", "protocol.first_seed")
    }
    tested = "" if run.split == "val" else run.scored_records
    return config_hash([same, list(run.manifest_hashes), run.split, tested])


def _shared_seeds(run: Run, baseline: Run) -> bool:
    """Whether both have a seed in common and, in every such seed, the same records on every side."""
    seeds = set(run.seeds) & set(baseline.seeds)
    sides = [
        table[table["seed"].isin(seeds)].sort_values(["seed", *SPLIT_FIELDS])[["seed", *SPLIT_FIELDS]].to_numpy()
        for table in (run.splits, baseline.splits)
    ]
    return bool(seeds) and np.array_equal(*sides)


def _comparisons(rows: list[Row], baseline: int, others: list[int]) -> Comparisons:
    base = rows[baseline]
    train, test = base.run.count("train"), base.run.count(base.run.split)
    series = {
        rows[i].label: pd.Series(rows[i].scores["macro_f1"].values, index=rows[i].run.seeds)
        for i in (baseline, *others)
    }
    table = compare_with_baseline(series, base.label, train_records=train, test_records=test)
    return Comparisons(baseline=base.label, train_records=train, test_records=test, table=table)


def _improved(row: Row, baseline: Row, improvement: float) -> Row:
    published = math.nan
    if "macro_f1" in row.published and "macro_f1" in baseline.published:
        published = relative_improvement(row.published["macro_f1"][0], baseline.published["macro_f1"][0])
    return replace(row, improvement=improvement, published_improvement=published)


def scores_table(rows: Sequence[Row]) -> pd.DataFrame:
    """One row per run, seed and score, with what it was scored on, where it comes from and what was published.

    Scores can be ranked where ``tested`` is the same; for a run without test records all three are of its validation.
    """
    records = []
    for row in rows:
        run = row.run
        for name, cell in row.scores.items():
            mean, sd = row.published.get(name, (math.nan, math.nan))
            records += [
                {
                    "run": row.label,
                    "recipe": run.config.recipe,
                    "seed": seed,
                    "split": run.split,
                    "test_set": run.tested.name,
                    "test_records": run.tested.records,
                    "tested": run.scored_records,
                    "score": name,
                    "value": value,
                    "published_mean": mean,
                    "published_sd": sd,
                    "published_row": "" if row.recipe is None else f"{row.recipe.table}: {row.recipe.row}",
                    "caveats": "; ".join(row.caveats),
                    "config_hash": run.config_hash,
                    "manifest_hashes": " ".join(run.manifest_hashes),
                    "folder": str(run.evaluation or run.folder),
                }
                for seed, value in zip(run.seeds, cell.values, strict=True)
            ]
    return pd.DataFrame(records)
