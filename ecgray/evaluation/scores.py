"""From stored predictions to scores.json: nothing in it that cannot be recomputed from predictions.parquet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ecgray.errors import EcgrayError
from ecgray.evaluation.metrics import confusion, majority_share, metrics_for
from ecgray.evaluation.statistics import bootstrap_interval, mean_sd


def score_predictions(predictions: pd.DataFrame, classes: Sequence[str], *, resamples: int = 2000) -> dict[str, Any]:
    """Scores per split of a table of predictions, as plain JSON values (NaN becomes None).

    predictions: columns seed, split, database, record, patient, label, predicted (class names).
    Returned: {"classes", "seeds", "splits": {split: {"records" per seed, "patients", "majority_share", "absent"
    (classes without a record in some seed, where their F1 is 0 and counts in the macro F1), "confusion" (summed over
    seeds, true by predicted), "scores": {name: {"values" per seed, "mean", "sd", "low", "high"}}}}}.
    low and high are the 95 % bootstrap interval over records and seeds; None where the seeds do not share their
    records (validation), since there is no one set of records to resample.
    """
    seeds = sorted(int(seed) for seed in predictions["seed"].unique())
    splits = {
        str(split): _score_split(part, list(classes), seeds, resamples) for split, part in predictions.groupby("split")
    }
    return {"classes": list(classes), "seeds": seeds, "splits": splits}


def class_indices(names: pd.Series, classes: Sequence[str]) -> np.ndarray:
    """(n,) position of each name in ``classes``. Raises EcgrayError for a name that is no class."""
    codes = pd.Categorical(names, categories=list(classes)).codes.astype(np.int64)
    if (codes < 0).any():
        strange = sorted(set(names[codes < 0].astype(str)))
        raise EcgrayError(
            f"Every label must be one of the classes {', '.join(classes)}, got also {', '.join(strange[:5])}; "
            f"use data with the same classes, or say what others count as (--labels {strange[0]}=CLASS, or "
            f"{strange[0]}= to leave its records out)."
        )
    return codes


def result(scores: dict[str, Any]) -> str:
    """What scores.json says, in one line: macro F1 on the test records, else on validation."""
    split = "test" if "test" in scores["splits"] else "val"
    found = scores["splits"][split]["scores"]["macro_f1"]
    mean, sd, seeds = found["mean"], found["sd"], len(scores["seeds"])
    spread = "" if sd is None else f" +- {sd:.3f}"
    name = "test" if split == "test" else "validation"
    return f"{name} macro F1 {mean:.3f}{spread} over {seeds} seed{'s' if seeds != 1 else ''}"


def _score_split(part: pd.DataFrame, classes: list[str], seeds: list[int], resamples: int) -> dict[str, Any]:
    metrics = metrics_for(classes)
    part = part.sort_values(["seed", "database", "record"], kind="stable")
    labels, predicted = class_indices(part["label"], classes), class_indices(part["predicted"], classes)
    of_seed = [np.flatnonzero(part["seed"].to_numpy() == seed) for seed in seeds]
    matrices = np.stack([confusion(labels[rows], predicted[rows], len(classes)) for rows in of_seed])
    names = (part["database"].astype(str) + "/" + part["record"].astype(str)).to_numpy()
    shared = all(np.array_equal(names[rows], names[of_seed[0]]) for rows in of_seed)
    intervals: dict[str, tuple[float, float]] = {}
    if shared:
        first = of_seed[0]
        owners = pd.factorize(part["database"].astype(str) + "/" + part["patient"].astype(str))[0][first]
        intervals = bootstrap_interval(
            labels[first],
            np.stack([predicted[rows] for rows in of_seed]),
            len(classes),
            metrics,
            patients=owners,
            resamples=resamples,
        )
    scores = {}
    for name, metric in metrics.items():
        values = metric(matrices)
        mean, sd = mean_sd(values)
        low, high = intervals.get(name, (math.nan, math.nan))
        scores[name] = {
            "values": [float(value) for value in values],
            "mean": mean,
            "sd": _number(sd),
            "low": _number(low),
            "high": _number(high),
        }
    return {
        "records": [len(rows) for rows in of_seed],
        "patients": int(part[["database", "patient"]].drop_duplicates().shape[0]),
        "majority_share": majority_share(labels),
        "absent": [name for name, fewest in zip(classes, matrices.sum(-1).min(0), strict=True) if fewest == 0],
        "confusion": matrices.sum(0).tolist(),
        "scores": scores,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
