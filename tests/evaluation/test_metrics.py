"""Every metric against scikit-learn, absent classes included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from ecgray.evaluation.metrics import (
    accuracy,
    balanced_accuracy,
    confusion,
    f1_per_class,
    macro_f1,
    majority_share,
    metrics_for,
    official_f1,
)

CINC = ("N", "A", "O", "~")
pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(pairs)
def test_equals_scikit_learn(both: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(both).T
    matrix = confusion(labels, predicted, 4)
    assert np.array_equal(matrix, reference.confusion_matrix(labels, predicted, labels=range(4)))
    each = reference.f1_score(labels, predicted, labels=range(4), average=None, zero_division=0)
    assert np.allclose(f1_per_class(matrix), each)
    assert macro_f1(matrix) == pytest.approx(each.mean())
    official = official_f1(CINC)
    assert official is not None and official(matrix) == pytest.approx(each[:3].mean())
    # scikit-learn warns of, and leaves out, a class that is predicted but never true; so do we.
    recall = [np.mean(predicted[labels == c] == c) for c in np.unique(labels)]
    assert balanced_accuracy(matrix) == pytest.approx(np.mean(recall))
    assert accuracy(matrix) == pytest.approx(reference.accuracy_score(labels, predicted))
    assert majority_share(labels) == pytest.approx(max(np.mean(labels == c) for c in range(4)))


def test_balanced_accuracy_equals_scikit_learn_when_all_classes_occur() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = np.repeat(np.arange(4), 9), rng.integers(0, 4, 36)
    matrix = confusion(labels, predicted, 4)
    assert balanced_accuracy(matrix) == pytest.approx(reference.balanced_accuracy_score(labels, predicted))


def test_leading_axes_are_kept() -> None:
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 4, 50), rng.integers(0, 4, (3, 50))
    matrix = confusion(labels, predicted, 4)
    assert matrix.shape == (3, 4, 4)
    for name, metric in metrics_for(CINC).items():
        each = [metric(confusion(labels, row, 4)) for row in predicted]
        assert np.allclose(metric(matrix), each), name


def test_macro_of_the_paper_is_over_four_classes() -> None:
    """W67: 0.731 is the mean of .898, .711, .701 and .613."""
    assert np.mean([0.898, 0.711, 0.701, 0.613]) == pytest.approx(0.731, abs=5e-4)
    assert list(metrics_for(CINC))[:2] == ["macro_f1", "official_f1"]
    assert "official_f1" not in metrics_for(("a", "b"))


def test_absent_class_is_zero_unless_asked_otherwise() -> None:
    matrix = confusion(np.array([0, 0]), np.array([0, 0]), 2)
    assert f1_per_class(matrix).tolist() == [1.0, 0.0]
    assert np.isnan(f1_per_class(matrix, absent=np.nan)[1])
