"""What a recipe is: one row of a paper's table, as a function that returns the config behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ecgray.finetuning.config import FinetuneConfig
from ecgray.recipes.published import Score
from ecgray.training.config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A row of a paper, its config and its numbers.

    published: score name -> (mean, sd) as printed; of a pretraining recipe the scores after finetuning, empty where the
    paper prints none. pretrained_by: name of the pretraining recipe whose run a finetuning recipe starts from, None for
    random weights.
    """

    name: str
    stage: Literal["pretrain", "finetune"]
    paper: str
    table: str
    row: str
    published: Mapping[str, Score]
    make: Callable[[], PretrainConfig | FinetuneConfig]
    pretrained_by: str | None = None
