"""Verbs that list what is known by name."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from ecgray.cli.words import parse


@dataclass(frozen=True, kw_only=True)
class List:
    """List what is known by name."""

    json: bool = False
    """JSON for programs."""


def lister(verb: str, rows: Callable[[], list[dict[str, Any]]]) -> Callable[[list[str]], None]:
    def show(words: list[str]) -> None:
        c = parse(List, verb, words)
        found = rows()
        if c.json:
            print(json.dumps(found, indent=2))
            return
        table = Table(box=None, pad_edge=False)
        for column in found[0]:
            table.add_column(column, no_wrap=column == "name", overflow="fold")
        for row in found:
            table.add_row(*(_words(value) for value in row.values()))
        Console(width=None if sys.stdout.isatty() else 160).print(table)

    return show


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{score} {mean:.3f} +- {sd:.3f}" for score, (mean, sd) in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def recipes() -> list[dict[str, Any]]:
    from ecgray.recipes import RECIPES

    return [
        {"name": r.name, "stage": r.stage, "paper": r.paper, "table": r.table, "row": r.row, "published": r.published}
        for r in RECIPES.values()
    ]


def databases() -> list[dict[str, Any]]:
    from ecgray.databases import DATABASES

    return [{"name": name, "title": d.title, "licence": d.licence} for name, d in DATABASES.items()]


def tasks() -> list[dict[str, Any]]:
    from ecgray.tasks import TASKS

    return [{"name": name, "paper": t.paper, "classes": list(t().classes)} for name, t in TASKS.items()]


def models() -> list[dict[str, Any]]:
    from ecgray.models import list_models

    return list_models()


def spaces() -> list[dict[str, Any]]:
    from ecgray.recipes import SPACES

    return [{"name": s.name, "stage": s.stage, "about": s.about, "paper": len(s.paper)} for s in SPACES.values()]
