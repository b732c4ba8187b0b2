"""From words to a command: tyro's parse, and the parts of a config that are chosen by name."""

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro

from ecgray.errors import EcgrayError, unknown

if TYPE_CHECKING:
    from ecgray.finetuning.config import FinetuneConfig
    from ecgray.training.config import PretrainConfig

T = TypeVar("T")
C = TypeVar("C", "PretrainConfig", "FinetuneConfig")
Flat = tyro.conf.arg(name="")
"""A part of a command whose own fields are words without a prefix."""


def parse(command: type[T], verb: str, words: Sequence[str], default: Any = None) -> T:
    """tyro's parse, with its boxed complaint as one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: T = tyro.cli(
                command,
                prog=f"ecgray {verb}",
                args=list(words),
                default=default,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        lines = complaint.getvalue().splitlines()
        said = [line for line in lines if not re.search("\u256d|-----", line)]  # a box's title, its rules in ASCII
        text = " ".join(re.sub(r"[^\x20-\x7e]", " ", line) for line in said).strip()
        raise EcgrayError(_in_our_words(re.sub(r"\s+", " ", text), verb)) from None
    return parsed


_NO_NUMBER = re.compile(r".*?Error parsing (--\S+): .*(?:literal for (int)\b.*|string to float): ('.*?')(?: |$)")
_NO_CONFIG = re.compile(r".*?Error parsing \w[\w.]*: (.*?)(?: For full helptext, see .*)?")
"""What a config itself refuses is one line already."""


def _in_our_words(complaint: str, verb: str) -> str:
    if found := _NO_NUMBER.match(complaint):
        kind = "a whole number" if found[2] else "a number"
        return f"{found[1]} must be {kind}, got {found[3]}; see ecgray {verb} --help."
    if found := _NO_CONFIG.fullmatch(complaint):
        return found[1]
    return complaint


def choose(verb: str, kind: str, words: Sequence[str], table: dict[str, Any]) -> tuple[Any, list[str]]:
    """The table's entry that the first word names, and the words left."""
    if not words or words[0].startswith("-"):
        known = ", ".join(sorted(table))
        if words and words[0] in ("-h", "--help"):
            print(f"usage: ecgray {verb} {kind.upper()} ...\n\nKnown: {known}.")
            raise SystemExit(0)
        raise EcgrayError(f"ecgray {verb} must be told a {kind} first, got none; known are {known}.")
    if words[0] not in table:
        raise unknown(kind, words[0], table)
    return table[words[0]], list(words[1:])


def choose_recipe(verb: str, stage: Literal["pretrain", "finetune"], words: Sequence[str]) -> tuple[Any, list[str]]:
    """``choose`` among the recipes of a stage; one of the other stage is told where it belongs."""
    from ecgray.recipes import RECIPES, find_recipe

    if words and words[0] in RECIPES:
        find_recipe(words[0], stage)
    table = {name: recipe for name, recipe in RECIPES.items() if recipe.stage == stage}
    return choose(verb, f"{stage.removesuffix('e')}ing recipe", words, table)


def exchange(config: C, words: Sequence[str], tables: Mapping[str, Mapping[str, Any]]) -> C:
    """``config`` with the parts that the words name (--objective focal), so that the parts' own fields can be given."""
    for part, table in tables.items():
        given = [value for word, value in pairwise((*words, "")) if word == f"--{part}"]
        given += [word.partition("=")[2] for word in words if word.startswith(f"--{part}=")]
        for name in given[-1:]:
            if name not in table:
                raise unknown(part, name, table)
            entry = table[name]
            config = replace(config, **{part: entry() if isinstance(entry, type) else entry})
    return config


def one_of(table: Mapping[str, Any]) -> Any:
    return tyro.conf.arg(metavar="{" + ",".join(table) + "}")
