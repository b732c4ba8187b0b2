"""What is minimised: a loss per frame, which the loop sums and divides by the frames counted over all workers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ecgray.config import Named
from ecgray.errors import EcgrayError
from ecgray.tasks.base import IGNORED


@dataclass(frozen=True, kw_only=True)
class Objective(Named):
    """A loss over class logits."""

    class_weights: Literal["none", "balanced"] = "none"
    """balanced weighs a class by n / (classes n_class) of the training frames; their mean is 1."""
    weighting_factor: float = 1.0
    """From no weighting (0) to that of class_weights (1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.weighting_factor <= 1:
            raise EcgrayError(f"objective.weighting_factor must lie in [0, 1], got {self.weighting_factor}; 1 is full.")

    def weights(self, histogram: npt.NDArray[np.int64]) -> Tensor | None:
        """(classes,) float32 weights for a label histogram (classes,) of training data, None where all weigh 1.

        A class that does not occur weighs 1, and the others are balanced among themselves.
        """
        if self.class_weights == "none":
            return None
        seen = histogram > 0
        balanced = np.where(seen, histogram.sum() / (max(seen.sum(), 1) * np.maximum(histogram, 1)), 1.0)
        return torch.tensor(1 + self.weighting_factor * (balanced - 1), dtype=torch.float32)

    def losses(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """(n,) float loss of each frame from logits (n, classes) and target (n,); exactly 0 where it is IGNORED."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """Categorical cross-entropy (papers.md W56), with classes weighed and targets smoothed on request."""

    name = "cross_entropy"
    label_smoothing: float = 0.0
    """Share of a target that is spread over all classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise EcgrayError(f"objective.label_smoothing must lie in [0, 1), got {self.label_smoothing}; 0 is none.")

    def losses(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        return F.cross_entropy(
            logits.float(),
            target,
            weights,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )


@dataclass(frozen=True, kw_only=True)
class Focal(Objective):
    """Focal loss of Lin et al. 2017: cross-entropy times (1 - p)^gamma, p the probability of the true class."""

    name = "focal"
    gamma: float = 2.0
    """How much less well classified frames count; 0 is cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma < math.inf:
            raise EcgrayError(f"objective.gamma must be 0 or more and finite, got {self.gamma}; 2 is usual.")

    def losses(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        plain = F.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="none")
        # The smallest step below 1 keeps the slope of (1 - p)^gamma finite for gamma under 1.
        missing = (-torch.expm1(-plain)).clamp_min(torch.finfo(plain.dtype).eps)
        losses = missing**self.gamma * plain
        return losses if weights is None else losses * weights[target.clamp_min(0)]


OBJECTIVES: dict[str, type[Objective]] = {objective.name: objective for objective in (CrossEntropy, Focal)}
Objective.table = OBJECTIVES
