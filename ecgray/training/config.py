"""The config of a pretraining run, nested by room."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from ecgray.errors import EcgrayError
from ecgray.models.base import Model
from ecgray.sampling.plan import SamplingConfig
from ecgray.tasks.base import Task
from ecgray.training.objectives import CrossEntropy, Objective

ICENTIA11K_MV = (0.0018, 1.3711)
"""Mean and standard deviation (mV) of the whole Icentia11K archive, artefacts included (papers.md W7)."""

_MOST = {"batch_size": 10**6, "threads": 4096}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Shard sets of one rate, and whose mean and standard deviation standardise them: their own (the paper's rule)
    or those of the whole Icentia11K archive (papers.md W7). ``verify``: what is checked of every shard file before the
    first step, its SHA-256, or its size alone where the archive is too large to be read once more; of a set at a
    URL its size, and its SHA-256 when it is fetched."""

    shards: tuple[str, ...] = ()
    standardisation: Literal["manifest", "icentia11k"] = "manifest"
    verify: Literal["hashes", "sizes"] = "hashes"


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Adam with framework defaults (papers.md W56); the published code's are beta2 .98 and eps 1e-9 (W57).

    ``weight_decay`` is decoupled (AdamW); ``clip_norm`` bounds the norm of all gradients together, None leaves it.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            parameters,
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise EcgrayError(
                    f"optimiser.{name} must be above 0 and finite, got {getattr(self, name)}; give a positive number."
                )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise EcgrayError(
                    f"optimiser.{name} must lie in [0, 1), got {getattr(self, name)}; .9 and .999 are usual."
                )
        if not 0 <= self.weight_decay < math.inf:
            raise EcgrayError(
                f"optimiser.weight_decay must be 0 or more and finite, got {self.weight_decay}; 0 is none."
            )
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise EcgrayError(
                f"optimiser.clip_norm must be above 0 and finite, got {self.clip_norm}; leave it out for no clipping."
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how. ``steps`` None: as many as the sampling plan's budget of frames holds.

    ``batch_size`` counts the frames of one step over all workers, taken in ``accumulation`` parts;
    ``validate_every``, ``checkpoint_every`` and ``log_every`` are in steps; the newest ``keep_checkpoints`` and
    the best one stay on disk; ``threads`` per worker, None: its share of the machine's cores.
    """

    steps: int | None = None
    batch_size: int = 32
    accumulation: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    validate_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    log_every: int = 10
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulation", "validate_every", "checkpoint_every", "keep_checkpoints")
        for name in (*counts, "log_every", "threads"):
            value, most = getattr(self, name), _MOST.get(name, 10**12)
            if value is not None and not 1 <= value <= most:
                raise EcgrayError(
                    f"training.{name} must be at least 1 and at most {most}, got {value}; give another whole number."
                )
        if not 0 <= self.seed < 2**32:
            raise EcgrayError(f"training.seed must be between 0 and 2**32 - 1, got {self.seed}; give another.")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides what a pretraining run computes; ``recipe`` names where it came from."""

    recipe: str
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    task: Task
    model: Model
    objective: Objective = field(default_factory=CrossEntropy)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
