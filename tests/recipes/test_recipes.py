"""Every recipe: JSON and back, a stable hash, and from its neighbour only what its row says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ecgray.config import config_hash, from_dict, to_dict
from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig
from ecgray.recipes import RECIPES, find_recipe, published, weimann2021
from ecgray.training.config import PretrainConfig

CLASSES: dict[str, type[Any]] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}


def differences(a: Any, b: Any, where: str = "") -> set[str]:
    """Dotted names of the fields in which two configs differ; a task of another kind is one difference."""
    if isinstance(a, dict) and isinstance(b, dict) and a.get("name") == b.get("name"):
        return set().union(*(differences(a.get(key), b.get(key), f"{where}.{key}") for key in a.keys() | b.keys()))
    return set() if a == b else {where.removeprefix(".")}


def changed(name: str, base: str) -> set[str]:
    return differences(to_dict(RECIPES[name].make()), to_dict(RECIPES[base].make()))


@pytest.mark.parametrize("name", RECIPES)
def test_round_trip_and_hash(name: str) -> None:
    recipe = RECIPES[name]
    config = recipe.make()
    assert isinstance(config, CLASSES[recipe.stage])
    assert config.recipe == recipe.name == name
    again = from_dict(CLASSES[recipe.stage], to_dict(config))
    assert again == config == recipe.make()
    assert config_hash(again) == config_hash(config) == config_hash(recipe.make())


def test_no_two_recipes_of_a_stage_share_a_hash() -> None:
    hashes = [config_hash(recipe.make()) for recipe in RECIPES.values()]
    assert len(set(hashes)) == len(hashes)


def test_finetuning_starts_from_known_pretraining_of_the_same_network() -> None:
    for recipe in RECIPES.values():
        if recipe.pretrained_by is None:
            assert recipe.stage == "pretrain" or "none" in recipe.name
            continue
        before, after = RECIPES[recipe.pretrained_by], recipe.make()
        assert before.stage == "pretrain"
        model: Any = before.make().model
        if recipe.name == "weimann2021_table4_future_resnet50":
            assert model.stages == 3
            model = replace(model, stages=4)
        assert model == after.model
        assert after.pretrained is None  # the run is given when the recipe is used


TABLE_FIELDS: Mapping[str, set[str]] = {
    "Table 1": set(),
    "Figure 3": set(),
    "Table 2": {"data.train_fraction"},
    "Table 3": {"data.fs"},
    "Table 4": {"model.depth"},
}


def test_finetuning_rows_change_only_the_rows_fields() -> None:
    for recipe in RECIPES.values():
        if recipe.stage == "finetune":
            assert changed(recipe.name, "weimann2021_cinc2017") - {"recipe"} <= TABLE_FIELDS[recipe.table], recipe.name
    assert RECIPES["weimann2021_table2_none_25"].make().data.train_fraction == 0.25
    assert RECIPES["weimann2021_table3_beat_128hz"].make().data.fs == 128
    assert RECIPES["weimann2021_table4_rhythm_resnet34"].make().model.depth == 34


def test_pretraining_rows_change_only_the_rows_fields() -> None:
    assert changed("weimann2021_rhythm", "weimann2021_beat") == {"recipe", "task"}
    assert changed("weimann2021_heart_rate", "weimann2021_beat") == {"recipe", "task", "sampling.frame_size"}
    assert changed("weimann2021_future", "weimann2021_beat") == {"recipe", "task", "sampling.frame_size"}
    for task in ("beat", "rhythm", "heart_rate"):
        for size in (512, 2048, 4096):
            name = f"weimann2021_{task}_{size}"
            if name in RECIPES:
                assert changed(name, f"weimann2021_{task}") == {"recipe", "sampling.frame_size"}
                assert RECIPES[name].make().sampling.frame_size == size
        for depth in (34, 50):
            assert changed(f"weimann2021_{task}_resnet{depth}", f"weimann2021_{task}") == {"recipe", "model.depth"}
    assert changed("weimann2021_future_resnet50", "weimann2021_future") == {"recipe", "model.depth", "model.stages"}
    base = "weimann2021_future"
    assert changed("weimann2021_future_16_8_2_512", base) == {"recipe", "task.offset"}
    assert changed("weimann2021_future_16_16_8_512", base) == {"recipe", "task.negatives"}
    assert changed("weimann2021_future_8_4_2_512", base) == {"recipe", "task.context", "task.negatives", "task.offset"}


def test_protocol_of_the_paper() -> None:
    config: Any = RECIPES["weimann2021_cinc2017"].make()
    p, d = config.protocol, config.data
    assert (d.train_fraction, p.val_fraction, p.test_fraction, p.seeds) == (0.75, 0.05, 0.2, 10)
    assert (p.epochs, p.patience, p.monitor, p.batch_size) == (200, 50, "train_accuracy", 64)
    assert (d.fs, d.seconds, d.padding, config.freeze_blocks, d.records) == (250, 60, "before", 0, None)
    assert (config.optimiser.learning_rate, config.optimiser.beta2) == (1e-3, 0.999)
    upstream: Any = RECIPES["weimann2021_beat"].make()
    assert (upstream.sampling.frames_per_patient, upstream.sampling.val_fraction) == (4096, 0.05)
    assert upstream.training.steps is None


def test_a_recipe_per_row() -> None:
    counts = {table: 0 for table in TABLE_FIELDS}
    for recipe in RECIPES.values():
        if re.match(r"weimann2021_(table|figure)\d", recipe.name):
            counts[recipe.table] += 1
    assert counts == {"Table 1": 14, "Figure 3": 5, "Table 2": 15, "Table 3": 15, "Table 4": 15}


def test_published_tables_agree_with_one_another() -> None:
    for task, row in published.BEST.items():
        best = published.TABLE_1[row][0]
        rows = [score[0] for name, score in published.TABLE_1.items() if name.startswith(task)]
        assert best == max(rows)
        assert best == published.TABLE_2[task]["75"]
        assert best == published.TABLE_3[task]["250hz"]
        assert best == published.TABLE_4[task]["resnet18"]
    for row, (macro, *classes) in published.TABLE_1.items():
        assert macro[0] == pytest.approx(sum(mean for mean, _ in classes) / 4, abs=0.0011), row
    none = published.TABLE_1["none"][0][0]
    for task, gain in published.RELATIVE_IMPROVEMENT.items():
        assert published.TABLE_1[published.BEST[task]][0][0] / none - 1 == pytest.approx(gain, abs=5e-5)


def test_recipes_give_the_published_numbers_of_their_row() -> None:
    for recipe in RECIPES.values():
        assert set(recipe.published) <= set(published.COLUMNS)
        assert bool(recipe.published) == (recipe.table != "Figure 3")
    assert RECIPES["weimann2021_table1_beat_2048"].published["f1_~"] == (0.661, 0.040)
    assert RECIPES["weimann2021_table2_none_25"].published == {"macro_f1": (0.670, 0.013)}
    assert RECIPES["weimann2021_cinc2017"].published == RECIPES["weimann2021_beat"].published


def test_docstrings_say_the_published_number() -> None:
    for task, base in weimann2021.BASES.items():
        mean, sd = RECIPES[f"weimann2021_{task}"].published["macro_f1"]
        assert f"{mean:.3f} +- {sd:.3f}".replace("0.", ".") in str(base.__doc__)
    text = str(weimann2021.weimann2021_cinc2017.__doc__)
    assert ".779 +- .014" in text and ".731 +- .019" in text


def test_unknown_recipe_names_near_matches() -> None:
    with pytest.raises(EcgrayError, match="weimann2021_beat"):
        find_recipe("weimann2021_baet")
    with pytest.raises(EcgrayError, match=r"must be one to pretrain.*weimann2021_beat"):
        find_recipe("weimann2021_table1_beat_2048", stage="pretrain")
    assert find_recipe("weimann2021_cinc2017", stage="finetune").table == "Table 1"
