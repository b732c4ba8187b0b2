"""Spaces: every value lands in the configs by its dotted name, and the paper's own settings are in them."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from optuna.trial import FixedTrial

from ecgray.config import config_hash, flatten, to_dict, with_values
from ecgray.errors import EcgrayError
from ecgray.recipes import RECIPES, SPACES
from ecgray.search.config import ProbeConfig, SearchConfig, SweepConfig
from ecgray.search.space import Space
from ecgray.tasks import FuturePrediction
from ecgray.training.config import PretrainConfig
from ecgray.training.objectives import Focal


def config_of(space: Space) -> SweepConfig:
    pretrain, finetune = space.make()
    return SweepConfig(space=space.name, pretrain=pretrain, finetune=finetune)


@pytest.mark.parametrize("name", SPACES)
def test_every_proposal_is_a_config_with_its_values(name: str) -> None:
    space, base = SPACES[name], config_of(SPACES[name])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    futures = 0
    for _ in range(60):
        trial = study.ask()
        added = space.suggest(trial) or {}
        config = base.of_trial(trial.params | added)
        flat = flatten(to_dict(config))
        for key, value in trial.params.items():
            assert flat.get(key, flat.get(f"{key}.name")) == value, key
        assert config.finetune.model == config.pretrain.model
        assert config.pretrain.recipe in RECIPES and config.finetune.recipe in RECIPES
        task = config.pretrain.task
        conditional = {"pretrain.task.context", "pretrain.task.offset", "pretrain.task.negatives"}
        if name == "weimann2021_pretraining":
            assert (trial.params.keys() & conditional == conditional) == (task.name == "future")
            assert RECIPES[config.pretrain.recipe].make().task.name == task.name  # type: ignore[union-attr]
        futures += task.name == "future"
        focal = isinstance(config.finetune.objective, Focal)
        assert ("finetune.objective.gamma" in trial.params) == (focal and name == "weimann2021_finetuning")
    assert (futures > 5) == (name == "weimann2021_pretraining")


def test_the_papers_settings_are_its_recipes() -> None:
    space = SPACES["weimann2021_pretraining"]
    base = config_of(space)
    found = []
    for point in space.paper:
        trial = FixedTrial(dict(point))
        added = space.suggest(trial) or {}
        assert trial.params == point, "nothing asked that the point does not give, and nothing given in vain"
        config = base.of_trial(dict(point) | added).pretrain
        recipe = RECIPES[config.recipe].make()
        assert isinstance(recipe, PretrainConfig)
        assert replace(recipe, training=config.training) == config
        found.append(config.recipe)
    assert found == [f"weimann2021_{task}" for task in ("beat", "rhythm", "heart_rate", "future")]


def test_values_by_dotted_name() -> None:
    config = config_of(SPACES["weimann2021_pretraining"])
    changed = with_values(
        config, {"pretrain.task.context": 8, "pretrain.task": "future", "pretrain.training.steps": 7, "probe.seed": 3}
    )
    assert changed.pretrain.task == FuturePrediction(context=8)
    assert (changed.pretrain.training.steps, changed.probe.seed) == (7, 3)
    assert config_hash(config) == config_hash(config_of(SPACES["weimann2021_pretraining"])), "the first is as it was"
    for values, said in (
        ({"pretrain.trainig.steps": 7}, "pretrain.training.steps"),
        ({"pretrain.task": "futur"}, "did you mean future"),
        ({"pretrain.task.context": 8}, "field"),
        ({"pretrain.training.steps": "many"}, "pretrain.training.steps"),
        ({"search.trials": 0}, "search.trials"),
    ):
        with pytest.raises(EcgrayError, match=said):
            with_values(config, values)


def test_rungs() -> None:
    config = config_of(SPACES["weimann2021_pretraining"])

    def rungs(steps: int, **search: object) -> tuple[int, ...]:
        training = replace(config.pretrain.training, steps=steps)
        settings = SearchConfig(**search)  # type: ignore[arg-type]
        return replace(config, pretrain=replace(config.pretrain, training=training), search=settings).rungs

    assert rungs(90) == (18,)
    assert rungs(90, reduction=3, rungs=2) == (10, 30)
    assert rungs(100, reduction=4, rungs=3) == (1, 4, 16)
    assert rungs(5, early_stopping=False) == ()
    with pytest.raises(EcgrayError, match="3 steps"):
        rungs(3)
    with pytest.raises(EcgrayError, match="5 steps"):
        rungs(5, reduction=3, rungs=2)


def test_a_probe_is_judged_on_all_it_was_not_trained_on_but_the_test() -> None:
    config = config_of(SPACES["weimann2021_pretraining"])
    probing = config.probing(config.pretrain, "run")
    assert (probing.data.train_fraction, probing.protocol.test_fraction) == (0.25, 0.2)
    assert probing.protocol.val_fraction == pytest.approx(0.55)
    assert config.finetuning("run").protocol.val_fraction == config.finetune.protocol.val_fraction
    with pytest.raises(EcgrayError, match=r"test's 0\.2 to judge on, got 0\.85; lower it"):
        replace(config, probe=ProbeConfig(train_fraction=0.85)).probing(config.pretrain, "run")
    finetune = replace(
        config.finetune,
        data=replace(config.finetune.data, train_fraction=0.5),
        protocol=replace(config.finetune.protocol, test_fraction=0.3),
    )
    nothing_left = replace(config, finetune=finetune, probe=ProbeConfig(train_fraction=0.7))
    with pytest.raises(EcgrayError, match=r"got 0\.7; lower it"):  # 1 - 0.3 - 0.7 is more than 0 in floating point
        nothing_left.probing(config.pretrain, "run")
