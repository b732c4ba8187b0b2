"""Papers as functions that return a config. A new paper: one module with ``recipes()``, and one line here."""

from __future__ import annotations

from ecgray.errors import EcgrayError, unknown
from ecgray.recipes import weimann2021
from ecgray.recipes.recipe import Recipe
from ecgray.recipes.spaces import SPACES

RECIPES: dict[str, Recipe] = {recipe.name: recipe for paper in (weimann2021,) for recipe in paper.recipes()}

__all__ = ["RECIPES", "SPACES", "Recipe", "find_recipe"]


def find_recipe(name: str, stage: str | None = None) -> Recipe:
    """The recipe of that name. Raises EcgrayError (with near matches) for an unknown one, or one of another stage."""
    if name not in RECIPES:
        raise unknown("recipe", name, (n for n, recipe in RECIPES.items() if stage in (None, recipe.stage)))
    recipe = RECIPES[name]
    if stage not in (None, recipe.stage):
        hint = f"pretrain with '{recipe.pretrained_by}'" if recipe.pretrained_by else f"use it to {recipe.stage}"
        raise EcgrayError(f"The recipe must be one to {stage}, got '{name}', which is to {recipe.stage}; {hint}.")
    return recipe
