"""Statistics against slow computations, published formulas and simulated truths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ecgray.errors import EcgrayError
from ecgray.evaluation.metrics import accuracy, confusion, macro_f1
from ecgray.evaluation.statistics import (
    bootstrap_interval,
    compare,
    compare_with_baseline,
    corrected_t_test,
    detectable_effect,
    holm,
    mean_sd,
    relative_improvement,
    wilcoxon_p,
)


def test_mean_sd() -> None:
    values = [0.7, 0.72, 0.69]
    mean, sd = mean_sd(values)
    assert mean == pytest.approx(sum(values) / 3)
    assert sd == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 2))
    assert math.isnan(mean_sd([0.5])[1])


def test_relative_improvement() -> None:
    assert relative_improvement(0.779, 0.731) == pytest.approx(0.0657, abs=1e-4)
    assert math.isnan(relative_improvement(0.5, 0.0))


def test_bootstrap_equals_a_slow_one_in_distribution() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 80)
    predicted = np.where(rng.random((4, 80)) < 0.7, labels, rng.integers(0, 3, (4, 80)))
    low, high = bootstrap_interval(labels, predicted, 3, {"macro": macro_f1}, resamples=4000)["macro"]
    slow = []
    for _ in range(4000):
        rows = rng.integers(0, 80, 80)
        seeds = rng.integers(0, 4, 3)
        slow.append(np.mean([macro_f1(confusion(labels[rows], predicted[s, rows], 3)) for s in seeds]))
    assert low == pytest.approx(np.quantile(slow, 0.025), abs=0.01)
    assert high == pytest.approx(np.quantile(slow, 0.975), abs=0.01)


def test_bootstrap_covers_the_truth() -> None:
    """Records and seeds both vary: each record has its difficulty, each seed its skill; the truth is their mean."""
    rng = np.random.default_rng(7)
    inside, trials, records, seeds = 0, 150, 120, 5
    for trial in range(trials):
        difficulty = rng.normal(0, 0.12, records)
        skill = rng.normal(0.7, 0.06, seeds)
        right = rng.random((seeds, records)) < np.clip(skill[:, None] + difficulty, 0, 1)
        labels = rng.integers(0, 2, records)
        low, high = bootstrap_interval(
            labels, np.where(right, labels, 1 - labels), 2, {"accuracy": accuracy}, resamples=400, seed=trial
        )["accuracy"]
        inside += low <= 0.7 <= high
    assert 0.86 <= inside / trials <= 0.99


def test_bootstrap_draws_patients_as_a_whole() -> None:
    """Ten copies of each record add nothing: with patients given, the interval stays as wide."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 40)
    predicted = np.where(rng.random((1, 40)) < 0.75, labels, 1 - labels)
    alone = bootstrap_interval(labels, predicted, 2, {"a": accuracy})["a"]
    copies = np.repeat(np.arange(40), 10)
    together = bootstrap_interval(labels[copies], predicted[:, copies], 2, {"a": accuracy}, patients=copies)["a"]
    fooled = bootstrap_interval(labels[copies], predicted[:, copies], 2, {"a": accuracy})["a"]
    assert together == pytest.approx(alone, abs=1e-6)
    assert fooled[1] - fooled[0] < 0.5 * (alone[1] - alone[0])


def test_wilcoxon_equals_enumeration_of_all_signs() -> None:
    rng = np.random.default_rng(2)
    for difference in (rng.normal(0.3, 1, 8), np.array([1.0, 1, 2, -2, 3, 3, 0, 4])):
        values = difference[difference != 0]
        ranks = stats.rankdata(np.abs(values))
        seen = abs(ranks[values > 0].sum() - ranks.sum() / 2)
        sums = [abs(np.dot(signs, ranks) - ranks.sum() / 2) for signs in itertools.product((0, 1), repeat=len(values))]
        assert wilcoxon_p(difference) == pytest.approx(np.mean(np.array(sums) >= seen - 1e-9))
    assert wilcoxon_p(np.zeros(5)) == 1.0


def test_ten_splits_can_reach_significance_three_cannot() -> None:
    assert wilcoxon_p(np.arange(1.0, 11)) == pytest.approx(2 / 2**10)
    assert wilcoxon_p(np.arange(1.0, 4)) == 0.25


def test_corrected_t_test_equals_the_slow_formula() -> None:
    rng = np.random.default_rng(4)
    difference = rng.normal(0.02, 0.03, 10)
    n, mean = len(difference), sum(difference) / len(difference)
    variance = sum((d - mean) ** 2 for d in difference) / (n - 1)
    expected = mean / math.sqrt((1 / n + 1705 / 6396) * variance)
    density = np.linspace(abs(expected), 400, 2_000_001)
    tail = 2 * np.trapezoid(stats.t.pdf(density, n - 1), density)
    t, p = corrected_t_test(difference, train_records=6396, test_records=1705)
    assert t == pytest.approx(expected)
    assert p == pytest.approx(tail, rel=1e-4)
    uncorrected = stats.ttest_1samp(difference, 0)
    assert corrected_t_test(difference, train_records=10**12, test_records=1)[1] == pytest.approx(uncorrected.pvalue)
    assert p > uncorrected.pvalue


def test_degenerate_differences() -> None:
    size = {"train_records": 80, "test_records": 20}
    assert corrected_t_test(np.zeros(4), **size) == (0.0, 1.0)
    assert corrected_t_test(np.full(4, 0.5), **size) == (math.inf, 0.0)
    found = compare([0.8], [0.7], **size)
    assert math.isnan(found.t_p) and math.isnan(found.detectable) and found.wilcoxon_p == 1.0
    assert compare([0.9, 0.2], [0.3, 0.4], **size).detectable == math.inf  # no score is so far from .35
    assert 0 < compare([0.36, 0.35], [0.34, 0.34], **size).detectable < 0.65
    with pytest.raises(EcgrayError, match="one score per shared split"):
        compare([0.1, 0.2], [0.1], **size)


def test_detectable_effect_has_the_power_it_promises() -> None:
    """Simulated where the correction is exact: the mean of the differences has variance (1/n + q) sd^2."""
    n, train, test = 10, 80, 20
    effect = detectable_effect(1.0, n, train_records=train, test_records=test)
    rng = np.random.default_rng(6)
    shared = rng.normal(0, math.sqrt(test / train), (4000, 1))
    found = rng.normal(effect, 1, (4000, n)) + shared
    hits = [corrected_t_test(row, train_records=train, test_records=test)[1] < 0.05 for row in found]
    assert np.mean(hits) == pytest.approx(0.8, abs=0.03)
    assert detectable_effect(1.0, n, train_records=train, test_records=test, alpha=0.01) > effect


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_equals_the_slow_rule(p: list[float]) -> None:
    adjusted = holm(p)
    order = sorted(range(len(p)), key=lambda i: p[i])
    worst = 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - place) * p[index]))
        assert adjusted[index] == pytest.approx(worst)


def test_holm_leaves_unknown_values_out() -> None:
    assert holm([0.01, math.nan, 0.04])[[0, 2]].tolist() == pytest.approx([0.02, 0.04])
    assert np.isnan(holm([math.nan])).all()


def test_compare_with_baseline_pairs_by_seed() -> None:
    rng = np.random.default_rng(8)
    none = pd.Series(rng.normal(0.73, 0.01, 10), index=range(10))
    runs = {"none": none, "beat": (none + 0.05 + rng.normal(0, 0.004, 10)).iloc[::-1], "rhythm": none.iloc[:6] + 0.001}
    table = compare_with_baseline(runs, "none", train_records=6396, test_records=1705).set_index("run")
    assert table.loc["beat", "seeds"] == 10 and table.loc["rhythm", "seeds"] == 6
    assert table.loc["beat", "difference"] == pytest.approx((runs["beat"].sort_index() - none).mean())
    assert table.loc["beat", "wilcoxon_holm"] == pytest.approx(2 * table.loc["beat", "wilcoxon_p"])
    assert table.loc["beat", "t_holm"] < 0.05
    with pytest.raises(EcgrayError, match="share seeds"):
        compare_with_baseline(
            {"none": none, "x": none.set_axis(range(50, 60))}, "none", train_records=1, test_records=1
        )
