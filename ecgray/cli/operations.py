"""Verbs around the runs."""

import json
import shutil
import sys
import textwrap
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ecgray.cli.words import parse
from ecgray.errors import EcgrayError

if TYPE_CHECKING:
    from ecgray.operations.run_list import RunRow


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check what a run needs: of the cluster that RAY_ADDRESS names or that runs here, else of this machine."""

    storage: str = "."
    """Folder or URL (s3://..., gs://...) that shards and runs are meant for."""
    json: bool = False
    """JSON for programs."""


def doctor(words: list[str]) -> None:
    from ecgray.operations.doctor import examine

    c = parse(Doctor, "doctor", words)
    checks = []
    for check in examine(c.storage):
        checks.append(check)
        if not c.json:
            _show(f"{check.state:<6}{check.name:<12}", check.found)
            if check.remedy:
                _show(f"{'':<18}-> ", check.remedy)
    if c.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    failed = [check.name for check in checks if check.state == "fail"]
    if failed:
        raise EcgrayError(f"All checks must pass, got failures of {', '.join(failed)}; do what is said after them.")


def _show(label: str, text: str) -> None:
    """One line, which a terminal gets folded under itself."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else len(label) + len(text) + 1
    lines = textwrap.wrap(text, max(width - len(label) - 1, 20), break_on_hyphens=False) or [""]
    print(label + f"\n{'':<{len(label)}}".join(lines), flush=True)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """List the runs in a folder, at any depth: state, progress, best score, last change."""

    root: tyro.conf.Positional[Path]
    json: bool = False
    """JSON for programs."""


def runs(words: list[str]) -> None:
    from ecgray.operations.run_list import list_runs

    c = parse(Runs, "runs", words)
    rows = list_runs(c.root)
    if c.json:
        print(json.dumps([asdict(row) | {"path": str(row.path)} for row in rows], indent=2))
        return
    if not rows:
        print(f"no runs in {c.root}")
        return
    names = [str(row.path.relative_to(c.root)) for row in rows]
    width = max(map(len, ["run", *names]))
    columns = shutil.get_terminal_size((120, 0)).columns
    print(f"{'run':<{width}}  kind      state     {'progress':<16}  {'best score':<24}  last change       config")
    for name, row in zip(names, rows, strict=True):
        print(f"{name:<{width}}  {row.kind:<8}  {row.state:<8}  {_rest(row)}"[: max(columns, width + 40)].rstrip())


def _rest(row: "RunRow") -> str:
    """The columns after the state; of a damaged run its fault, of a failed one its reason after them."""
    if row.state == "damaged":
        return row.note
    progress = "" if row.done is None else f"{row.done}/{'?' if row.total is None else row.total} {row.unit}"
    score = ""
    if row.score is not None:
        name, value, sd = row.score
        score = f"{name} {value:.3f}".replace(" 0.", " .") + (f" +- {sd:.3f}".replace(" 0.", " .") if sd else "")
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.changed))
    return f"{progress:<16}  {score:<24}  {changed}  {row.config_hash[:8]:<8}  {row.note}"
