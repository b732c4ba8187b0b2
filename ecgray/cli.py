"""The command line: words to calls, nothing else. ``ecgray --help`` lists the verbs."""

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from ecgray.errors import EcgrayError, unknown

if TYPE_CHECKING:
    from ecgray.finetuning.config import FinetuneConfig
    from ecgray.training.config import PretrainConfig

T = TypeVar("T")
C = TypeVar("C", "PretrainConfig", "FinetuneConfig")
Flat = tyro.conf.arg(name="")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 for what the user can mend, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    try:
        if words[0] == "--version":
            from ecgray import __version__

            print(f"ecgray {__version__}")
        elif words[0] in VERBS:
            VERBS[words[0]][1](words[1:])
        else:
            raise unknown("command", words[0], VERBS)
    except EcgrayError as error:
        print(f"ecgray: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has enough
        return 0
    except OSError as error:
        print(
            f"ecgray: {error.filename or 'a file'} must be readable and writable, got: {error.strerror or error}.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("ecgray: interrupted.", file=sys.stderr)
        return 130
    return 0


def _overview() -> str:
    rows = "\n".join(f"  {verb:<12}{text}" for verb, (text, _) in VERBS.items())
    return f"usage: ecgray VERB ...   (ecgray VERB --help shows its words)\n\n{rows}"


def _parse(command: type[T], verb: str, words: Sequence[str], default: Any = None) -> T:
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
        said = [line for line in complaint.getvalue().splitlines() if not line.startswith("\u256d")]  # a box's title
        text = " ".join(re.sub(r"[^\x20-\x7e]", " ", line) for line in said).strip()
        raise EcgrayError(re.sub(r"\s+", " ", text)) from None
    return parsed


def _choose(verb: str, kind: str, words: Sequence[str], table: dict[str, Any]) -> tuple[Any, list[str]]:
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


def _exchange(config: C, words: Sequence[str], tables: Mapping[str, Mapping[str, Any]]) -> C:
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


def _one_of(table: Mapping[str, Any]) -> Any:
    return tyro.conf.arg(metavar="{" + ",".join(table) + "}")


@dataclass(frozen=True, kw_only=True)
class Synthesise:
    """Write a synthetic database as genuine WFDB files, from a seed."""

    kind: tyro.conf.Positional[Literal["ambulatory", "labelled"]]
    root: tyro.conf.Positional[Path]
    patients: int = 24
    """Patients of the ambulatory database."""
    segments_per_patient: int = 2
    segment_seconds: float = 600.0
    records: int = 400
    """Records of the labelled set."""
    seed: int = 0


def synthesise(words: list[str]) -> None:
    from ecgray.databases.synthesise import write_ambulatory, write_labelled

    c = _parse(Synthesise, "synthesise", words)
    if c.kind == "ambulatory":
        write_ambulatory(
            c.root,
            patients=c.patients,
            segments_per_patient=c.segments_per_patient,
            segment_seconds=c.segment_seconds,
            seed=c.seed,
        )
    else:
        write_labelled(c.root, records=c.records, seed=c.seed)
    print(c.root)


def ingest(words: list[str]) -> None:
    from ecgray.databases import DATABASES
    from ecgray.databases.record import Database
    from ecgray.shards.ingest import ingest as run

    @dataclass(frozen=True, kw_only=True)
    class Ingest:
        """Read a database's files once and write them as a shard set."""

        root: tyro.conf.Positional[Path]
        """Folder of the database."""
        database: Annotated[Database, Flat]
        out: Path
        """Folder of the shard set; a killed ingest goes on when the command is given again."""
        fs: float | None = None
        """Resample to this rate in Hz."""
        detect_beats: bool = False
        """Find beats in records that have no annotations."""
        workers: int | None = None
        """Parallel readers (default: the cluster's CPUs; 0: in this process, without Ray)."""

    database, rest = _choose("ingest", "database", words, DATABASES)
    default = Ingest(root=tyro.MISSING, database=database(), out=tyro.MISSING)
    c = _parse(Ingest, f"ingest {words[0]}", rest, default)
    run(c.database, c.root, c.out, fs=c.fs, detect_beats=c.detect_beats, workers=c.workers)
    print(c.out)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what shard sets hold."""

    shards: tyro.conf.Positional[tuple[str, ...]]
    json: bool = False
    """JSON for programs."""
    html: Path | None = None
    """Also write a page with strips of signal and their annotations."""


def inspect(words: list[str]) -> None:
    from ecgray.shards.inspect import summary

    c = _parse(Inspect, "inspect", words)
    found = summary(c.shards)
    if c.html is not None:
        from ecgray.shards.inspect_page import write_page

        write_page(c.shards, c.html)
    if c.json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        if key == "refused":
            print(f"{key:<16}{len(value)}")
            for row in value:
                print(f"  {row['record']}: {row['reason']}")
        elif isinstance(value, dict):
            print(f"{key:<16}{', '.join(f'{name} {count:,.6g}' for name, count in value.items()) or '-'}")
        else:
            print(f"{key:<16}{', '.join(map(str, value)) if isinstance(value, list) else value}")
    if c.html is not None:
        print(f"{'page':<16}{c.html}")


@dataclass(frozen=True, kw_only=True)
class Label:
    """Say what a task asks of given frames."""

    shards: tyro.conf.Positional[tuple[str, ...]]
    task: str
    frames: Path
    """CSV with the columns record, start."""
    frame_size: int = 2048
    rule: Literal["paper", "code"] = "paper"
    out: Path | None = None
    """CSV record, start, label (default: printed)."""
    plot: Path | None = None
    """PNG with the frames, their annotations and labels."""


def label(words: list[str]) -> None:
    from ecgray.shards.archive import open_archive
    from ecgray.tasks import TASKS
    from ecgray.tasks.label import label_frames, plot_frames, read_frames

    c = _parse(Label, "label", words)
    if c.task not in TASKS:
        raise unknown("task", c.task, TASKS)
    if c.task == "future":
        raise EcgrayError(
            "The task must ask for a class, got 'future', whose answer is drawn; use beat, rhythm, heart_rate."
        )
    asked: type[Any] = TASKS[c.task]
    task = asked(rule=c.rule)
    archive = open_archive(c.shards, verify="hashes")
    table = label_frames(archive, task, c.frame_size, read_frames(c.frames))
    if c.plot is not None:
        plot_frames(archive, task, c.frame_size, table, c.plot)
    if c.out is None:
        print(table.to_csv(index=False), end="")
    else:
        c.out.write_text(table.to_csv(index=False), encoding="utf-8")


def pretrain(words: list[str]) -> None:
    from ecgray.models import MODELS
    from ecgray.recipes import RECIPES
    from ecgray.tasks import TASKS
    from ecgray.training.config import PretrainConfig
    from ecgray.training.objectives import OBJECTIVES
    from ecgray.training.pretraining import pretrain as run

    @dataclass(frozen=True, kw_only=True)
    class Pretrain:
        """Pretrain a network by a recipe; every field of the recipe by its dotted name."""

        config: Annotated[PretrainConfig, Flat]
        data: tuple[str, ...] = ()
        """Shard sets of one sampling rate (--data.shards for short)."""
        task: Annotated[str | None, _one_of(TASKS)] = None
        """Another task than the recipe's; its fields follow as --task.*"""
        model: Annotated[str | None, _one_of(MODELS)] = None
        """Another network than the recipe's; its fields follow as --model.*"""
        objective: Annotated[str | None, _one_of(OBJECTIVES)] = None
        """Another loss than the recipe's; its fields follow as --objective.*"""
        out: Path
        """Run folder."""
        workers: int = 0
        """Training workers on Ray (0: in this process, without Ray)."""
        backend: Literal["local", "ray"] | None = None
        """What delivers the frames (default: ray with workers, local without)."""
        resume: bool = False
        """Go on with an existing run."""

    table = {name: recipe for name, recipe in RECIPES.items() if recipe.stage == "pretrain"}
    recipe, rest = _choose("pretrain", "pretraining recipe", words, table)
    start = _exchange(recipe.make(), rest, {"task": TASKS, "model": MODELS, "objective": OBJECTIVES})
    default = Pretrain(config=start, out=tyro.MISSING)
    c = _parse(Pretrain, f"pretrain {words[0]}", rest, default)
    config = replace(c.config, data=replace(c.config.data, shards=c.data)) if c.data else c.config
    print(run(config, c.out, workers=c.workers, resume=c.resume, backend=c.backend))


def finetune(words: list[str]) -> None:
    from ecgray.finetuning.config import FinetuneConfig
    from ecgray.finetuning.protocol import finetune as run
    from ecgray.models import MODELS
    from ecgray.recipes import RECIPES
    from ecgray.training.objectives import OBJECTIVES

    @dataclass(frozen=True, kw_only=True)
    class Finetune:
        """Finetune on labelled records with several seeds; every field of the recipe by its dotted name."""

        config: Annotated[FinetuneConfig, Flat]
        data: str | None = None
        """Labelled shard set (--data.shards for short)."""
        test_data: str | None = None
        """Shard set that holds the test records, or 'none' for no test (--data.test-shards for short)."""
        seeds: int | None = None
        """How many seeds (--protocol.seeds for short)."""
        model: Annotated[str | None, _one_of(MODELS)] = None
        """Another network than the recipe's; its fields follow as --model.*"""
        objective: Annotated[str | None, _one_of(OBJECTIVES)] = None
        """Another loss than the recipe's; its fields follow as --objective.*"""
        out: Path
        """Run folder."""
        workers: int = 0
        """Seeds side by side on Ray (0: one after another in this process, without Ray)."""
        resume: bool = False
        """Go on with an existing run."""

    table = {name: recipe for name, recipe in RECIPES.items() if recipe.stage == "finetune"}
    recipe, rest = _choose("finetune", "finetuning recipe", words, table)
    start = _exchange(recipe.make(), rest, {"model": MODELS, "objective": OBJECTIVES})
    default = Finetune(config=start, out=tyro.MISSING)
    c = _parse(Finetune, f"finetune {words[0]}", rest, default)
    config = c.config
    if c.data is not None:
        config = replace(config, data=replace(config.data, shards=c.data))
    if c.test_data is not None:
        config = replace(config, data=replace(config.data, test_shards=c.test_data))
    if c.seeds is not None:
        config = replace(config, protocol=replace(config.protocol, seeds=c.seeds))
    if config.pretrained == "none":
        config = replace(config, pretrained=None)
    print(run(config, c.out, workers=c.workers, resume=c.resume))


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score every seed of a finetuning run on labelled records that it has not seen."""

    run: tyro.conf.Positional[Path]
    data: str
    """Labelled shard set."""
    out: Path


def evaluate(words: list[str]) -> None:
    from ecgray.finetuning.evaluate import evaluate as run

    c = _parse(Evaluate, "evaluate", words)
    print(run(c.run, c.data, c.out))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the paper's table with our numbers beside it, from stored runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path


def report(words: list[str]) -> None:
    from ecgray.report.report import write_report

    c = _parse(Report, "report", words)
    print(write_report(c.runs, c.out))


@dataclass(frozen=True, kw_only=True)
class List:
    """List what is known by name."""

    json: bool = False


def _lister(verb: str, rows: Callable[[], list[dict[str, Any]]]) -> Callable[[list[str]], None]:
    def show(words: list[str]) -> None:
        c = _parse(List, verb, words)
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


def _recipes() -> list[dict[str, Any]]:
    from ecgray.recipes import RECIPES

    return [
        {"name": r.name, "stage": r.stage, "paper": r.paper, "table": r.table, "row": r.row, "published": r.published}
        for r in RECIPES.values()
    ]


def _databases() -> list[dict[str, Any]]:
    from ecgray.databases import DATABASES

    return [{"name": name, "title": d.title, "licence": d.licence} for name, d in DATABASES.items()]


def _tasks() -> list[dict[str, Any]]:
    from ecgray.tasks import TASKS

    return [{"name": name, "paper": t.paper, "classes": list(t().classes)} for name, t in TASKS.items()]


def _models() -> list[dict[str, Any]]:
    from ecgray.models import list_models

    return list_models()


VERBS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "synthesise": ("write a synthetic database as WFDB files", synthesise),
    "ingest": ("files of a database to a shard set", ingest),
    "inspect": ("what shard sets hold", inspect),
    "label": ("what a task asks of given frames", label),
    "pretrain": ("pretrain a network by a recipe", pretrain),
    "finetune": ("finetune it on labelled records, several seeds", finetune),
    "evaluate": ("score a finetuning run on records it has not seen", evaluate),
    "report": ("the paper's table, ours beside it", report),
    "recipes": ("list the recipes", _lister("recipes", _recipes)),
    "databases": ("list the databases", _lister("databases", _databases)),
    "tasks": ("list the pretraining tasks", _lister("tasks", _tasks)),
    "models": ("list the networks", _lister("models", _models)),
}

if __name__ == "__main__":
    sys.exit(main())
