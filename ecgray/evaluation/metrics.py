"""Single-label metrics, all from a confusion matrix, so that thousands of resamples are scored in one call.

A matrix is int64 (..., true class, predicted class); leading axes (seeds, resamples) stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[Any]
Metric = Callable[[Matrix], npt.NDArray[np.float64]]

OFFICIAL_CLASSES = ("N", "A", "O")
"""Classes whose F1 the PhysioNet/CinC 2017 challenge averages (noise is left out)."""


def confusion(
    labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], classes: int
) -> npt.NDArray[np.int64]:
    """(..., classes, classes) counts of true class by predicted class.

    labels: (n,) class indices; predicted: (..., n) class indices of the same records.
    """
    cells = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    flat = cells.reshape(-1, cells.shape[-1])
    offsets = np.arange(len(flat))[:, None] * classes**2
    counts = np.bincount((flat + offsets).ravel(), minlength=len(flat) * classes**2)
    return counts.reshape(*cells.shape[:-1], classes, classes)


def f1_per_class(matrix: Matrix, absent: float = 0.0) -> npt.NDArray[np.float64]:
    """(..., classes) F1 = 2 TP / (2 TP + FP + FN); ``absent`` for a class that neither occurs nor is predicted."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    marks = matrix.sum(-1) + matrix.sum(-2)
    return np.where(marks > 0, 2 * hits / np.maximum(marks, 1), absent)


def macro_f1(matrix: Matrix) -> npt.NDArray[np.float64]:
    """(...,) mean F1 over all classes: with CinC 2017's four, the score of Weimann & Conrad's tables (W67)."""
    return f1_per_class(matrix).mean(-1)


def official_f1(classes: Sequence[str]) -> Metric | None:
    """The PhysioNet/CinC 2017 score, mean F1 of N, A and O (noise excluded), or None where these are not classes."""
    if not set(OFFICIAL_CLASSES) <= set(classes):
        return None
    chosen = [list(classes).index(name) for name in OFFICIAL_CLASSES]
    return lambda matrix: f1_per_class(matrix)[..., chosen].mean(-1)


def balanced_accuracy(matrix: Matrix) -> npt.NDArray[np.float64]:
    """(...,) mean recall over the classes that occur (chance: 1 / classes, whatever the majority's share)."""
    true = matrix.sum(-1)
    recall = np.diagonal(matrix, axis1=-2, axis2=-1) / np.maximum(true, 1)
    return recall.sum(-1) / np.maximum((true > 0).sum(-1), 1)


def accuracy(matrix: Matrix) -> npt.NDArray[np.float64]:
    """(...,) share of records predicted right."""
    return np.trace(matrix, axis1=-2, axis2=-1) / np.maximum(matrix.sum((-2, -1)), 1)


def majority_share(labels: npt.NDArray[np.integer]) -> float:
    """Share of the most frequent class: the accuracy of always saying it."""
    return float(np.bincount(labels).max() / len(labels))


def _f1_of(index: int, matrix: Matrix) -> npt.NDArray[np.float64]:
    return f1_per_class(matrix)[..., index]


def metrics_for(classes: Sequence[str]) -> dict[str, Metric]:
    """Every score that a table may show, by its name: macro_f1, official_f1 (where defined), f1_<class>,
    balanced_accuracy, accuracy."""
    metrics: dict[str, Metric] = {"macro_f1": macro_f1}
    official = official_f1(classes)
    if official is not None:
        metrics["official_f1"] = official
    for index, name in enumerate(classes):
        metrics[f"f1_{name}"] = partial(_f1_of, index)
    return metrics | {"balanced_accuracy": balanced_accuracy, "accuracy": accuracy}
