"""The config of a sweep: the configs that its trials vary, and how it looks for the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from ecgray.config import with_values
from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig
from ecgray.training.config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How many trials, how they are proposed, when one is stopped, and what one is worth.

    Device-seconds are of work that came to its end: what a killed process had begun is not counted. Early stopping is
    asynchronous successive halving over pretraining steps, by a probe at every rung (more rungs spend less on each, and
    judge by younger networks: README, "Measured").
    """

    trials: int = 40
    """How many trials in all."""
    seed: int = 0
    """Of the sampler (TPE)."""
    startup_trials: int = 10
    """How many of the first trials are drawn at random."""
    objective: Literal["score", "score_and_cost"] = "score"
    """Macro F1 on validation, mean over the finetuning seeds; or that and the trial's device-seconds."""
    early_stopping: bool = True
    """Whether a trial that falls behind in pretraining is stopped."""
    reduction: int = 5
    """A trial goes on where it is among the best 1 / reduction seen at a rung."""
    rungs: int = 1
    """How often a trial is judged: after steps / reduction**rungs, ..., steps / reduction of its steps."""
    seeds: int = 3
    """Finetuning seeds of a trial."""
    epochs: int | None = None
    """Finetuning epochs of a trial (default: as finetune says)."""
    train_fraction: float | None = None
    """Training records of a trial as a share of the entire data set (default: as finetune says)."""
    final_seeds: int = 10
    """Seeds of the winner and the baselines, whose test records are opened; 0 leaves them closed."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = {"seed": 0, "final_seeds": 0, "reduction": 2}.get(item.name, 1)
            if type(value) is int and value < least:
                raise EcgrayError(f"search.{item.name} must be at least {least}, got {value}; give another number.")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """A short finetuning that says how far a pretraining has come, the same for every task: one seed with its split and
    head, always this many epochs over this share of the records, judged by macro F1 on all others but the test: the few
    that validate otherwise would tell trials apart by chance."""

    seed: int = 0
    """Of its split and its head."""
    epochs: int = 5
    """Epochs, always all of them."""
    train_fraction: float = 0.25
    """Training records as a share of the entire data set; all others but the test judge."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.seed < 0 or not 0 < self.train_fraction < 1:
            raise EcgrayError(
                "A probe must have a seed from 0 on, an epoch or more and a train_fraction between 0 and 1, got "
                f"{self.seed}, {self.epochs} and {self.train_fraction}; 0, 5 and 0.25 are the defaults."
            )


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Everything that decides what a sweep computes. Trials take pretrain and finetune and set the values that
    the space asks for; the network that is finetuned is the one that was pretrained."""

    space: str
    """Name of what is searched."""
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    search: SearchConfig = field(default_factory=SearchConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    @property
    def steps(self) -> int:
        """Pretraining steps of a trial that is not stopped."""
        steps = self.pretrain.training.steps
        assert steps is not None, "a sweep resolves the number of steps before it starts"
        return steps

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps after which a trial is probed and may be stopped, fewest first; none without early stopping."""
        search = self.search
        if not search.early_stopping:
            return ()
        first = self.steps // search.reduction**search.rungs
        if first < 1:
            raise EcgrayError(
                f"The first rung must come after a step or more, got {self.steps} steps and {search.rungs} rungs of "
                f"reduction {search.reduction}; raise pretrain.training.steps or lower search.rungs."
            )
        return tuple(first * search.reduction**rung for rung in range(search.rungs))

    def of_trial(self, params: Mapping[str, Any]) -> SweepConfig:
        """This config with a trial's values, and one network for both stages."""
        config = with_values(self, params)
        return replace(config, finetune=replace(config.finetune, model=config.pretrain.model))

    def probing(self, pretrain: PretrainConfig, pretrained: str) -> FinetuneConfig:
        """The probe of a checkpoint of ``pretrain``. It depends on nothing that the space searches in ``finetune``."""
        probe, protocol = self.probe, self.finetune.protocol
        others = 1 - protocol.test_fraction - probe.train_fraction
        if others < 1e-9:
            raise EcgrayError(
                f"probe.train_fraction must leave records beside the test's {protocol.test_fraction:g} to judge on, "
                f"got {probe.train_fraction:g}; lower it."
            )
        protocol = replace(
            protocol,
            seeds=1,
            first_seed=probe.seed,
            epochs=probe.epochs,
            patience=probe.epochs,
            val_fraction=others,
        )
        data = replace(self.finetune.data, train_fraction=probe.train_fraction)
        return replace(self.finetune, model=pretrain.model, pretrained=pretrained, protocol=protocol, data=data)

    def finetuning(self, pretrained: str) -> FinetuneConfig:
        """The finetuning of a trial."""
        search, protocol, data = self.search, self.finetune.protocol, self.finetune.data
        if search.train_fraction is not None:
            data = replace(data, train_fraction=search.train_fraction)
        protocol = replace(protocol, seeds=search.seeds, epochs=search.epochs or protocol.epochs)
        return replace(self.finetune, pretrained=pretrained, protocol=protocol, data=data)

    def final(self, pretrained: str | None) -> FinetuneConfig:
        """The finetuning of the winner or of a baseline; frozen random weights are no baseline."""
        protocol = replace(self.finetune.protocol, seeds=self.search.final_seeds)
        frozen = self.finetune.freeze_blocks if pretrained is not None else 0
        return replace(self.finetune, pretrained=pretrained, protocol=protocol, freeze_blocks=frozen)
