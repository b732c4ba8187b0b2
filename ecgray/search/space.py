"""What a search space is: a function that asks Optuna for values of dotted names, and where it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ecgray.finetuning.config import FinetuneConfig
from ecgray.training.config import PretrainConfig

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


@dataclass(frozen=True, kw_only=True)
class Space:
    """A search space over the fields of a sweep's config: ``pretrain.*`` and ``finetune.*``, as on the command line.

    stage: what is searched; with "finetune" all trials share one pretraining, and none is stopped early. make: the
    configs whose other fields every trial keeps. suggest: asks the trial for every value by its dotted name, and may
    ask for some only where others make sense of them; what it returns is set without being searched. paper: the
    published settings, tried first and in this order, the best one at the head.
    """

    name: str
    stage: Literal["pretrain", "finetune"]
    about: str
    make: Callable[[], tuple[PretrainConfig, FinetuneConfig]]
    suggest: Callable[[BaseTrial], dict[str, Any] | None]
    paper: tuple[Mapping[str, Any], ...] = ()
