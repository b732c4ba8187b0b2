"""Search spaces around Weimann & Conrad 2021, over the names of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ecgray.config import flatten, to_dict
from ecgray.finetuning.config import FinetuneConfig
from ecgray.recipes.published import BEST, TABLE_1
from ecgray.recipes.weimann2021 import BASES, pretraining_variant, weimann2021_beat, weimann2021_cinc2017
from ecgray.search.space import Space
from ecgray.training.config import PretrainConfig

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

FUTURE = {"context": (8, 16), "offset": (2, 8), "negatives": (4, 8, 16)}
"""Of future prediction alone; every value occurs in Table 1."""


def suggest_pretraining(trial: BaseTrial) -> dict[str, Any]:
    """Task, frame size, depth and learning rate; context, offset and negatives where the future is predicted.

    Every network has four stages, also the ResNet-50 that predicts the future (of which Table 4 has three).
    """
    task = trial.suggest_categorical("pretrain.task", list(BASES))
    frame = trial.suggest_categorical("pretrain.sampling.frame_size", [512, 2048, 4096])
    numbers = {}
    if task == "future":
        numbers = {name: trial.suggest_categorical(f"pretrain.task.{name}", values) for name, values in FUTURE.items()}
    trial.suggest_categorical("pretrain.model.depth", [18, 34, 50])
    trial.suggest_float("pretrain.optimiser.learning_rate", 1e-4, 1e-2, log=True)
    order = [str(numbers[name]) for name in ("context", "negatives", "offset")] if numbers else []
    return {"pretrain.recipe": _nearest_recipe(task, "_".join([task, *order, str(frame)]))}


def suggest_finetuning(trial: BaseTrial) -> None:
    """Frozen blocks, learning rate, loss, its gamma where it is the focal one, and the weights of the classes."""
    trial.suggest_int("finetune.freeze_blocks", 0, 7)
    trial.suggest_float("finetune.optimiser.learning_rate", 1e-4, 1e-2, log=True)
    if trial.suggest_categorical("finetune.objective", ["cross_entropy", "focal"]) == "focal":
        trial.suggest_float("finetune.objective.gamma", 0.5, 5.0)
    if trial.suggest_categorical("finetune.objective.class_weights", ["none", "balanced"]) == "balanced":
        trial.suggest_float("finetune.objective.weighting_factor", 0.0, 1.0)


def _nearest_recipe(task: str, configuration: str) -> str:
    """The row of Table 1 with these settings, else the task's best one: what a report sets beside a trial."""
    known = configuration in TABLE_1 and configuration not in BEST.values()
    return f"weimann2021_{configuration if known else task}"


def _pretraining_point(configuration: str) -> Mapping[str, Any]:
    """A row of Table 1 as values of the space."""
    flat = flatten({"pretrain": to_dict(pretraining_variant("", configuration))})
    fields = ["sampling.frame_size", "model.depth", "optimiser.learning_rate"]
    task = str(flat["pretrain.task.name"])
    if task == "future":
        fields += [f"task.{name}" for name in FUTURE]
    return {"pretrain.task": task} | {f"pretrain.{name}": flat[f"pretrain.{name}"] for name in fields}


def _configs() -> tuple[PretrainConfig, FinetuneConfig]:
    """The paper's best row, keeping one checkpoint beside the best: a sweep has many runs."""
    pretrain = weimann2021_beat()
    return replace(pretrain, training=replace(pretrain.training, keep_checkpoints=1)), weimann2021_cinc2017()


SPACES: dict[str, Space] = {
    space.name: space
    for space in (
        Space(
            name="weimann2021_pretraining",
            stage="pretrain",
            about="task, frame size, network depth, learning rate; context, offset and negatives of future prediction",
            make=_configs,
            suggest=suggest_pretraining,
            paper=tuple(_pretraining_point(BEST[task]) for task in BASES),
        ),
        Space(
            name="weimann2021_finetuning",
            stage="finetune",
            about="frozen blocks, learning rate, focal gamma, weighting factor, class weights, after one pretraining",
            make=_configs,
            suggest=suggest_finetuning,
            paper=(
                {
                    "finetune.freeze_blocks": 0,
                    "finetune.optimiser.learning_rate": 1e-3,
                    "finetune.objective": "cross_entropy",
                    "finetune.objective.class_weights": "none",
                },
            ),
        ),
    )
}
