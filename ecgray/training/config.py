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
    """Shard sets of one rate, and whose mean and standard deviation standardise them.

    Sizes alone are for an archive too large to be read once more; of a set at a URL the size is checked, and the
    SHA-256 when a file is fetched.
    """

    shards: tuple[str, ...] = ()
    """Shard sets of one sampling rate."""
    standardisation: Literal["manifest", "icentia11k"] = "manifest"
    """Whose mean and sd standardise: the sets' own (the paper's rule) or all of Icentia11K's (papers.md W7)."""
    verify: Literal["hashes", "sizes"] = "hashes"
    """What is checked of every shard file before the first step: its SHA-256, or its size alone."""


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Adam with PyTorch's defaults (papers.md W56; TensorFlow's have eps 1e-7). The published code of pretraining has
    beta2 .98 and eps 1e-9 (W57)."""

    learning_rate: float = 1e-3
    """Adam's step size."""
    beta1: float = 0.9
    """Decay of Adam's mean of gradients."""
    beta2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root of that mean."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW); 0 is none."""
    clip_norm: float | None = None
    """Bound of the norm of all gradients together (default: none)."""

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
    """How long and how."""

    steps: int | None = None
    """Optimiser steps in all (default: as many as the sampling plan's budget of frames holds)."""
    batch_size: int = 32
    """Frames of one step over all workers."""
    accumulation: int = 1
    """Parts in which a worker takes its frames of a step."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of forward and backward pass: float32, or bfloat16 autocast."""
    compile: bool = False
    """Compile the network with torch.compile."""
    validate_every: int = 2_000
    """Steps between validations, one of which decides which checkpoint is the best (papers.md W59)."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay on disk, beside the best one."""
    log_every: int = 50
    """Steps between lines of metrics."""
    threads: int | None = None
    """CPU threads of each worker (default: its share of the machine's cores)."""
    seed: int = 0
    """What the network draws from, its initial weights first."""

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
    """Everything that decides what a pretraining run computes."""

    recipe: str
    """Where the config came from."""
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    task: Task
    model: Model
    objective: Objective = field(default_factory=CrossEntropy)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
