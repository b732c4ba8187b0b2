"""From words to a command: tyro's parse, and the parts of a config that are chosen by name."""

import contextlib
import io
import os
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro
from tyro._errors import on_parse_error

from ecgray.cli.options import REGISTRY, description_of, options_of, wrong_word
from ecgray.errors import EcgrayError, unknown

if TYPE_CHECKING:
    from ecgray.finetuning.config import FinetuneConfig
    from ecgray.training.config import PretrainConfig

T = TypeVar("T")
C = TypeVar("C", "PretrainConfig", "FinetuneConfig")
Flat = tyro.conf.arg(name="")
"""A part of a command whose own fields are words without a prefix."""


def parse(command: type[T], verb: str, words: Sequence[str], default: Any = None) -> T:
    """tyro's parse, with one line for a wrong word, the same on a terminal and in a pipe."""

    def refuse(event: Any) -> None:
        error = wrong_word(event, verb, lambda: list(options_of(command, default)))
        if error is not None:
            raise error

    complaint = io.StringIO()
    tyro._experimental_options["ansi_codes"] = not os.environ.get("NO_COLOR")
    try:
        with contextlib.redirect_stderr(complaint), on_parse_error(refuse):
            parsed: T = tyro.cli(
                command,
                prog=f"ecgray {verb}",
                description=description_of(command),
                args=list(words),
                default=default,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
                registry=REGISTRY,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[^\x20-\x7e]", " ", complaint.getvalue())  # of a kind that is not known here
        raise EcgrayError(f"{' '.join(text.split())}; see ecgray {verb} --help.") from None
    return parsed


def choose(
    verb: str, kind: str, words: Sequence[str], table: Mapping[str, Any], see: str | None = None
) -> tuple[Any, list[str]]:
    """The table's entry that the first word names, and the words left. ``see``: the command that lists the names."""
    known = f"'{see}' lists them" if see else f"known are {', '.join(sorted(table))}"
    if words and words[0] in ("-h", "--help"):
        word = kind.rpartition(" ")[2].upper()
        print(f"usage: ecgray {verb} {word} [OPTIONS]\n")
        for line in (f"Give a {kind} first; {known}.", f"'ecgray {verb} {word} --help' shows its options."):
            print(textwrap.fill(line, shutil.get_terminal_size().columns, break_on_hyphens=False))
        raise SystemExit(0)
    if not words or words[0].startswith("-"):
        got = words[0] if words else "none"
        raise EcgrayError(f"ecgray {verb} must be told a {kind} first, got {got}; {known}.")
    if words[0] not in table:
        raise unknown(kind, words[0], table, see)
    return table[words[0]], list(words[1:])


def choose_recipe(verb: str, stage: Literal["pretrain", "finetune"], words: Sequence[str]) -> tuple[Any, list[str]]:
    """``choose`` among the recipes of a stage; one of the other stage is told where it belongs."""
    from ecgray.recipes import RECIPES, find_recipe

    if words and words[0] in RECIPES:
        find_recipe(words[0], stage)
    table = {name: recipe for name, recipe in RECIPES.items() if recipe.stage == stage}
    return choose(verb, f"{stage.removesuffix('e')}ing recipe", words, table, f"ecgray recipes --stage {stage}")


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
