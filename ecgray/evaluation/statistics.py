"""Statistics over seeds: spread, intervals, and paired comparisons of runs that share their splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, stats

from ecgray.errors import EcgrayError
from ecgray.evaluation.metrics import Metric

Scores = npt.NDArray[np.float64]


def mean_sd(values: Sequence[float] | Scores) -> tuple[float, float]:
    """(mean, standard deviation with n - 1); the deviation of a single value is NaN."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan


def bootstrap_interval(
    labels: npt.NDArray[np.integer],
    predicted: npt.NDArray[np.integer],
    classes: int,
    metrics: Mapping[str, Metric],
    *,
    patients: npt.NDArray[np.integer] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile interval of each metric's mean over seeds, resampling test records *and* seeds.

    labels: (n,) class indices; predicted: (seeds, n) of the same records; patients: (n,) codes where several records
    share a patient, who is then drawn as a whole. Both levels vary in every resample: records are drawn once for all
    seeds (the seeds share the test set), and seeds - 1 seeds are drawn with replacement, which makes the variance of
    their mean unbiased (drawing all of few seeds would understate it by (seeds - 1) / seeds; Rao & Wu 1988).
    """
    rng = np.random.default_rng(seed)
    predicted = np.atleast_2d(predicted)
    seeds, records = predicted.shape
    cells = labels[None] * classes + predicted
    # One column per (seed, cell): the matrices of all seeds in a resample are one product with the records' weights.
    hits = np.zeros((records, seeds, classes**2), np.float32)
    hits[np.arange(records)[:, None], np.arange(seeds), cells.T] = 1
    units = np.arange(records) if patients is None else np.unique(patients, return_inverse=True)[1]
    count = int(units.max()) + 1
    totals: dict[str, list[Scores]] = {name: [] for name in metrics}
    for first in range(0, resamples, 250):
        size = min(250, resamples - first)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float32)[:, units]
        matrices = (weights @ hits.reshape(records, -1)).reshape(size, seeds, classes, classes)
        chosen = rng.integers(0, seeds, (size, max(seeds - 1, 1)))
        for name, metric in metrics.items():
            totals[name].append(np.take_along_axis(metric(matrices), chosen, axis=1).mean(1))
    tail = (1 - level) / 2
    return {
        name: (float(np.quantile(np.concatenate(t), tail)), float(np.quantile(np.concatenate(t), 1 - tail)))
        for name, t in totals.items()
    }


def relative_improvement(mean: float, baseline: float) -> float:
    """(mean - baseline) / baseline: what pretraining adds to the score of the run without it, as a share of it."""
    return (mean - baseline) / baseline if baseline else math.nan


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A paired comparison over shared splits; ``difference`` is the mean of first - second.

    wilcoxon_p, t_p: two-sided; t: the corrected resampled t; detectable: smallest absolute difference that this design
    (its number of splits, its overlap, the spread seen) finds with the power asked for, infinite where no score between
    0 and 1 is so far from the mean of the second. NaN where one split leaves no spread to judge by.
    """

    splits: int
    difference: float
    sd: float
    wilcoxon_p: float
    t: float
    t_p: float
    detectable: float


def compare(
    first: Sequence[float] | Scores,
    second: Sequence[float] | Scores,
    *,
    train_records: int,
    test_records: int,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Comparison:
    """Compares two runs' scores, each between 0 and 1, split by split.

    Raises EcgrayError when they do not have the same number of splits.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise EcgrayError(
            f"A paired comparison needs one score per shared split, got {a.shape} and {b.shape}; "
            "compare the seeds that both runs have."
        )
    difference = a - b
    mean, sd = mean_sd(difference)
    t, t_p = corrected_t_test(difference, train_records=train_records, test_records=test_records)
    detectable = detectable_effect(
        sd, len(difference), train_records=train_records, test_records=test_records, alpha=alpha, power=power
    )
    return Comparison(
        splits=len(difference),
        difference=mean,
        sd=sd,
        wilcoxon_p=wilcoxon_p(difference),
        t=t,
        t_p=t_p,
        detectable=math.inf if detectable > max(b.mean(), 1 - b.mean()) else detectable,
    )


def wilcoxon_p(difference: Scores) -> float:
    """Exact two-sided p of the Wilcoxon signed-rank test; zeros are dropped, ties are taken as they are.

    With ties the tabulated distribution does not hold, so all 2^n signs are enumerated (up to n = 16, else sampled).
    """
    values = difference[difference != 0]
    if not len(values):
        return 1.0
    tied = len(np.unique(np.abs(values))) < len(values)
    method = stats.PermutationMethod(n_resamples=2**16, rng=np.random.default_rng(0)) if tied else "exact"
    return float(stats.wilcoxon(values, method=method).pvalue)


def corrected_t_test(difference: Scores, *, train_records: int, test_records: int) -> tuple[float, float]:
    """(t, two-sided p) of the corrected resampled t-test (Nadeau & Bengio 2003, equation 9).

    The splits share records, so their differences are correlated; the variance of the mean is
    (1 / n + test_records / train_records) * var instead of var / n. Degrees of freedom n - 1.
    """
    mean, sd = mean_sd(difference)
    if len(difference) < 2:
        return math.nan, math.nan
    if sd == 0:
        return (0.0, 1.0) if mean == 0 else (math.copysign(math.inf, mean), 0.0)
    t = mean / (sd * _error_factor(len(difference), train_records, test_records))
    return t, float(2 * stats.t.sf(abs(t), len(difference) - 1))


def detectable_effect(
    sd: float, splits: int, *, train_records: int, test_records: int, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true difference that the corrected resampled t-test finds with ``power`` at two-sided ``alpha``.

    sd: of the differences over splits. Under m comparisons with Holm's correction give alpha / m for the hardest case.
    """
    if splits < 2 or not sd > 0:
        return math.nan
    df = splits - 1
    critical = stats.t.ppf(1 - alpha / 2, df)
    # Power of a t-test given its sample deviation, averaged over that deviation's quantiles: the noncentral t
    # distribution, without the NaNs that scipy's gives for few degrees of freedom.
    quantiles = (np.arange(4096) + 0.5) / 4096
    threshold = critical * np.sqrt(stats.chi2.ppf(quantiles, df) / df)

    def shortfall(shift: float) -> float:
        return float((stats.norm.sf(threshold - shift) + stats.norm.cdf(-threshold - shift)).mean()) - power

    shift = optimize.brentq(shortfall, 0.0, 4 * critical + 10)
    return float(shift * sd * _error_factor(splits, train_records, test_records))


def _error_factor(splits: int, train_records: int, test_records: int) -> float:
    return math.sqrt(1 / splits + test_records / train_records)


def holm(p_values: Sequence[float] | Scores) -> Scores:
    """(n,) p-values adjusted for n comparisons (Holm 1979): step down, never decreasing, at most 1; NaN stays NaN."""
    p = np.asarray(p_values, np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * steps), 1.0) if len(order) else 0.0
    return adjusted


def compare_with_baseline(
    runs: Mapping[str, pd.Series],
    baseline: str,
    *,
    train_records: int,
    test_records: int,
    alpha: float = 0.05,
    power: float = 0.8,
) -> pd.DataFrame:
    """Every run against the baseline over the seeds both have, with Holm's correction over the runs.

    runs: a score per seed (index: seed), by run name. Columns: run, seeds, mean, baseline, relative_improvement,
    difference, sd, wilcoxon_p, wilcoxon_holm, t, t_p, t_holm, detectable (at alpha / number of runs).
    """
    rows = []
    others = [name for name in runs if name != baseline]
    for name in others:
        pair = pd.concat([runs[name], runs[baseline]], axis=1, join="inner", keys=["run", "baseline"])
        if pair.empty:
            raise EcgrayError(
                f"Runs must share seeds to be compared, got none in both '{name}' and '{baseline}'; "
                "finetune them with the same seeds and split_seed."
            )
        found = compare(
            pair["run"].to_numpy(),
            pair["baseline"].to_numpy(),
            train_records=train_records,
            test_records=test_records,
            alpha=alpha / len(others),
            power=power,
        )
        mean, base = float(pair["run"].mean()), float(pair["baseline"].mean())
        rows.append(
            {
                "run": name,
                "seeds": found.splits,
                "mean": mean,
                "baseline": base,
                "relative_improvement": relative_improvement(mean, base),
                "difference": found.difference,
                "sd": found.sd,
                "wilcoxon_p": found.wilcoxon_p,
                "t": found.t,
                "t_p": found.t_p,
                "detectable": found.detectable,
            }
        )
    table = pd.DataFrame(rows)
    if rows:
        table.insert(table.columns.get_loc("wilcoxon_p") + 1, "wilcoxon_holm", holm(table["wilcoxon_p"].to_numpy()))
        table.insert(table.columns.get_loc("t_p") + 1, "t_holm", holm(table["t_p"].to_numpy()))
    return table
