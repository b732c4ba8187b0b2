"""Losses against slow loops over frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ecgray.errors import EcgrayError
from ecgray.training.objectives import CrossEntropy, Focal, Objective

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0], [1.0, 1.0, -2.0]])
TARGET = torch.tensor([0, -1, 2, 1])
HISTOGRAM = np.array([10, 30, 60])


def slow_loss(logits: list[float], target: int, weights: list[float] | None, gamma: float) -> float:
    if target < 0:
        return 0.0
    p = math.exp(logits[target]) / sum(math.exp(value) for value in logits)
    return (weights[target] if weights else 1.0) * (1 - p) ** gamma * -math.log(p)


@pytest.mark.parametrize("balanced", ["none", "balanced"])
@pytest.mark.parametrize(("objective", "gamma"), [(CrossEntropy, 0.0), (Focal, 2.0), (Focal, 0.5)])
def test_losses_equal_the_slow_loop(objective: type[Objective], gamma: float, balanced: str) -> None:
    made = objective(class_weights=balanced, **({"gamma": gamma} if objective is Focal else {}))
    weights = made.weights(HISTOGRAM)
    plain = None if weights is None else weights.tolist()
    expected = [
        slow_loss(row, target, plain, gamma) for row, target in zip(LOGITS.tolist(), TARGET.tolist(), strict=True)
    ]
    torch.testing.assert_close(made.losses(LOGITS, TARGET, weights), torch.tensor(expected))


def test_balanced_weights_have_mean_one_over_the_training_frames() -> None:
    weights = CrossEntropy(class_weights="balanced").weights(HISTOGRAM)
    assert weights is not None
    np.testing.assert_allclose(weights, 100 / (3 * HISTOGRAM), rtol=1e-6)
    assert np.average(weights, weights=HISTOGRAM) == pytest.approx(1)
    half = CrossEntropy(class_weights="balanced", weighting_factor=0.5).weights(HISTOGRAM)
    np.testing.assert_allclose(half, (1 + weights) / 2, rtol=1e-6)


def test_a_class_that_does_not_occur_weighs_one() -> None:
    weights = Focal(class_weights="balanced").weights(np.array([0, 25, 75]))
    np.testing.assert_allclose(weights, [1, 2, 2 / 3], rtol=1e-6)


def test_focal_gradients_are_finite_where_the_network_is_sure() -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    Focal(gamma=0.5).losses(logits, torch.tensor([0, 0])).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("wrong", [{"gamma": -1.0}, {"weighting_factor": 1.5}])
def test_refuses_values_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(EcgrayError, match=next(iter(wrong))):
        Focal(**wrong)  # type: ignore[arg-type]
