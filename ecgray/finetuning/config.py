"""What a finetuning run is made of. Defaults are the protocol of Weimann & Conrad 2021 (papers.md W60-W71)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ecgray.errors import EcgrayError
from ecgray.models import MODELS
from ecgray.models.base import Model
from ecgray.training.config import OptimiserConfig
from ecgray.training.model_folder import MAX_SAMPLES
from ecgray.training.objectives import CrossEntropy, Objective


@dataclass(frozen=True, kw_only=True)
class FinetuneDataConfig:
    """Which labelled records, and how they reach the network.

    Standardised with the labelled set's own mean and sd, resampled to fs, brought to seconds.
    """

    shards: str = ""
    """Labelled shard set."""
    test_shards: str | None = None
    """Shard set that holds the test records; "none": no test; left out: a fixed share of ``shards``."""
    labels: tuple[str, ...] = ()
    """What labels of these records count as: AFIB=A NSR=N; AFIB= leaves out the records of AFIB."""
    fs: float = 250.0
    """Hz that records are resampled to."""
    seconds: float = 60.0
    """Length that records are brought to, in seconds."""
    padding: Literal["before", "after"] = "before"
    """Side of the zeros of a shorter record; a longer one keeps its last samples (before) or its first (after)."""
    train_fraction: float = 0.75
    """Training records as a share of the entire data set (the paper's subsets: .5 and .25)."""
    records: int | None = None
    """Use only so many of the labelled records, stratified (a reduced budget)."""

    def __post_init__(self) -> None:
        _need(1 <= self.fs <= 100_000, "data.fs", "between 1 and 100,000 Hz", self.fs)
        most = MAX_SAMPLES / self.fs
        _need(0 < self.seconds <= most, "data.seconds", f"above 0 and at most {most:g} at {self.fs:g} Hz", self.seconds)
        _need(0 < self.train_fraction < 1, "data.train_fraction", "between 0 and 1", self.train_fraction)
        _need(self.records is None or self.records > 1, "data.records", "above 1 or left out", self.records)

    @property
    def length_samples(self) -> int:
        return max(1, round(self.seconds * self.fs))


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """Repetitions over re-drawn splits, and when one of them ends.

    Seed s has its own train and validation records, order of batches and new output layer; the test records depend on
    split_seed alone. Of a seed the epoch with the best macro F1 on validation counts.
    """

    seeds: int = 10
    """Repetitions."""
    first_seed: int = 0
    """Number of the first of them."""
    epochs: int = 200
    """Most epochs of a seed."""
    patience: int = 50
    """Epochs without a better monitor after which a seed ends."""
    monitor: Literal["train_accuracy", "val_loss"] = "train_accuracy"
    """What must get better."""
    batch_size: int = 64
    """Records of a step."""
    test_fraction: float = 0.2
    """Test records as a share of the entire data set."""
    val_fraction: float = 0.05
    """Validation records as a share of the entire data set."""
    split_seed: int = 0
    """What the test records are drawn from, the same for all seeds."""

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "patience", "batch_size"):
            _need(getattr(self, name) >= 1, f"protocol.{name}", "at least 1", getattr(self, name))
        for name in ("first_seed", "split_seed"):
            _need(0 <= getattr(self, name) < 2**32, f"protocol.{name}", "between 0 and 2**32 - 1", getattr(self, name))
        _need(0 < self.test_fraction < 1, "protocol.test_fraction", "between 0 and 1", self.test_fraction)
        _need(0 < self.val_fraction < 1, "protocol.val_fraction", "between 0 and 1", self.val_fraction)

    @property
    def seed_numbers(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A finetuning run."""

    recipe: str = ""
    """Where the config came from."""
    data: FinetuneDataConfig = field(default_factory=FinetuneDataConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    pretrained: str | None = None
    """Pretraining run (folder or URL) or model folder to start from (default, or none: random weights)."""
    freeze_blocks: int = 0
    """How many residual blocks from the input on keep the pretrained weights."""
    model: Model = field(default_factory=lambda: MODELS["resnet18"])
    objective: Objective = field(default_factory=CrossEntropy)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of forward and backward pass: float32, or bfloat16 autocast."""

    def __post_init__(self) -> None:
        used = self.data.train_fraction + self.protocol.test_fraction + self.protocol.val_fraction
        _need(used < 1 + 1e-9, "the sum of train, validation and test fractions", "at most 1", round(used, 4))


def _need(holds: bool, what: str, rule: str, got: object) -> None:
    if not holds:
        raise EcgrayError(f"{what} must be {rule}, got {got}; change it on the command line or in the recipe.")
