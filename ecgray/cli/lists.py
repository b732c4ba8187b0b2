"""Verbs that list what is known by name. A list fits a terminal; in a pipe its lines have all their words."""

import json
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from ecgray.cli.words import parse
from ecgray.errors import EcgrayError, unknown

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class List:
    """List what is known by name."""

    json: bool = False
    """JSON for programs."""


def lister(verb: str, rows: Callable[[], Rows]) -> Callable[[list[str]], None]:
    def show(words: list[str]) -> None:
        c = parse(List, verb, words)
        found = rows()
        print(json.dumps(found, indent=2) if c.json else table(found))

    return show


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes, a row of a paper's table each; or say all of one."""

    name: tyro.conf.Positional[str | None] = None
    """A recipe, to see its published scores and its command."""
    paper: str | None = None
    """Recipes of this paper alone, by the word that their names begin with (weimann2021)."""
    table: str | None = None
    """Rows of this table alone (1, or figure3)."""
    stage: Literal["pretrain", "finetune"] | None = None
    """Recipes of this stage alone."""
    scores: bool = False
    """Show the published scores too."""
    json: bool = False
    """JSON for programs."""


def recipes(words: list[str]) -> None:
    from ecgray.recipes import RECIPES

    c = parse(Recipes, "recipes", words)
    if c.name is not None and c.name not in RECIPES:
        raise unknown("recipe", c.name, RECIPES, see="ecgray recipes")
    found = list(RECIPES.values()) if c.name is None else [RECIPES[c.name]]
    if c.paper is not None:
        _refuse_unknown("paper", c.paper, {r.name.partition("_")[0] for r in RECIPES.values()})
        found = [r for r in found if r.name.startswith(f"{c.paper}_")]
    if c.table is not None:
        _refuse_unknown("table", _short(c.table), {_short(r.table) for r in RECIPES.values()})
        found = [r for r in found if _short(r.table) == _short(c.table)]
    found = [r for r in found if c.stage in (None, r.stage)]
    if not found:
        raise EcgrayError("A recipe must be of the paper, table and stage together, got none; leave out one of them.")
    if c.json:
        names = ("name", "stage", "paper", "table", "row", "published")
        print(json.dumps([{name: getattr(r, name) for name in names} for r in found], indent=2))
    elif c.name is None:
        shown = [{"name": r.name, "stage": r.stage, "table": r.table, "row": r.row} for r in found]
        if c.scores:
            shown = [{"name": r.name, "table": r.table, "published": _words(r.published)} for r in found]
        print(table(shown, fold=c.scores))
    else:
        (one,) = found
        start = f" --pretrained RUN_OF_{one.pretrained_by}" if one.pretrained_by else ""
        start = start or (" --pretrained none" if one.stage == "finetune" else "")
        command = f"ecgray {one.stage} {one.name} --data SHARDS{start} --out RUN"
        lines = {"name": one.name, "stage": one.stage, "paper": f"{one.paper}, {one.table}", "row": one.row}
        lines |= {"published": _words(one.published) or "no number", "command": command}
        print("\n".join(f"{label:<11}{text}" for label, text in lines.items()))


def _short(table: str) -> str:
    """ "Table 1" as "1", "Figure 3" as "figure3"."""
    return table.lower().replace(" ", "").removeprefix("table")


def _refuse_unknown(kind: str, got: str, known: set[str]) -> None:
    if got not in known:
        raise unknown(kind, got, known)


def table(rows: Rows, *, fold: bool = True) -> str:
    """Lines with a column for each key. On a terminal the widest column is what gives way: folded, or else cut."""
    lines = [list(rows[0]), *([_words(value) for value in row.values()] for row in rows)]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(lines[0]))]
    over = sum(widths) + 2 * (len(widths) - 1) - (shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**6)
    if over > 0:
        widest = widths.index(max(widths))
        widths[widest] = max(widths[widest] - over, 16)
    return "\n".join(_line(cells, widths, fold) for cells in lines)


def _line(cells: list[str], widths: list[int], fold: bool) -> str:
    parts = [
        textwrap.wrap(cell, width, break_on_hyphens=False) or [""] for cell, width in zip(cells, widths, strict=True)
    ]
    if not fold:
        parts = [
            part if len(part) == 1 else [f"{cell[: width - 3]}..."]
            for part, cell, width in zip(parts, cells, widths, strict=True)
        ]
    height = max(map(len, parts))
    padded = [part + [""] * (height - len(part)) for part in parts]
    return "\n".join(
        "  ".join(f"{part[row]:<{width}}" for part, width in zip(padded, widths, strict=True)).rstrip()
        for row in range(height)
    )


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{score} {mean:.3f} +- {sd:.3f}" for score, (mean, sd) in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def databases() -> Rows:
    from ecgray.databases import DATABASES

    return [{"name": name, "title": d.title, "licence": d.licence} for name, d in DATABASES.items()]


def tasks() -> Rows:
    from ecgray.tasks import TASKS

    return [{"name": name, "paper": t.paper, "classes": list(t().classes)} for name, t in TASKS.items()]


def models() -> Rows:
    from ecgray.models import list_models

    return list_models()


def spaces() -> Rows:
    from ecgray.recipes import SPACES

    return [{"name": s.name, "stage": s.stage, "about": s.about, "paper": len(s.paper)} for s in SPACES.values()]
