"""Verbs that make runs and reports."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ecgray.cli.words import Flat, choose_recipe, exchange, one_of, parse
from ecgray.errors import EcgrayError
from ecgray.progress import announce


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
        task: Annotated[str | None, one_of(TASKS)] = None
        """Another task than the recipe's; its fields follow as --task.*"""
        model: Annotated[str | None, one_of(MODELS)] = None
        """Another network than the recipe's; its fields follow as --model.*"""
        objective: Annotated[str | None, one_of(OBJECTIVES)] = None
        """Another loss than the recipe's; its fields follow as --objective.*"""
        out: str
        """Run folder, or a URL (s3://, gs://)."""
        workers: str = "0"
        """Training workers on Ray (0: in this process, without Ray; 1:4: as many as the cluster holds, as it does)."""
        device: Literal["cpu", "cuda"] | None = None
        """What this process or each worker on Ray computes on (default: a GPU where there is any now)."""
        backend: Literal["local", "ray"] | None = None
        """What delivers the frames (default: ray with workers, local without)."""
        resume: bool = False
        """Go on with the run in --out; a new one where there is none."""

    recipe, rest = choose_recipe("pretrain", "pretrain", words)
    start = exchange(recipe.make(), rest, {"task": TASKS, "model": MODELS, "objective": OBJECTIVES})
    default = Pretrain(config=start, out=tyro.MISSING)
    c = parse(Pretrain, f"pretrain {words[0]}", rest, default)
    config = replace(c.config, data=replace(c.config.data, shards=c.data)) if c.data else c.config
    workers = _workers(c.workers)
    print(run(config, c.out, workers=workers, resume=c.resume, backend=c.backend, device=c.device), flush=True)
    after = next((r.name for r in RECIPES.values() if r.pretrained_by == recipe.name), "RECIPE")
    announce(
        True,
        f"next: ecgray finetune {after} --data LABELLED --pretrained {c.out} --out RUN",
        "      or go on with more: the same command with --resume --training.steps N",
    )


def _workers(words: str) -> int | tuple[int, int]:
    """ "4" as 4, "1:4" as (1, 4)."""
    numbers = words.split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise EcgrayError(f"--workers must be a number or FEWEST:MOST, got {words}; give 4 or 1:4.")
    return int(numbers[0]) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))


def finetune(words: list[str]) -> None:
    from ecgray.finetuning.config import FinetuneConfig
    from ecgray.finetuning.protocol import finetune as run
    from ecgray.models import MODELS
    from ecgray.training.objectives import OBJECTIVES

    @dataclass(frozen=True, kw_only=True)
    class Finetune:
        """Finetune on labelled records with several seeds; every field of the recipe by its dotted name."""

        config: Annotated[FinetuneConfig, Flat]
        data: str | None = None
        """Labelled shard set (--data.shards for short)."""
        test_data: str | None = None
        """Shard set that holds the test records, or 'none' for no test (--data.test-shards for short)."""
        labels: tuple[str, ...] = ()
        """What labels of both sets count as: AFIB=A; AFIB= leaves its records out (--data.labels for short)."""
        seeds: int | None = None
        """How many seeds (--protocol.seeds for short)."""
        model: Annotated[str | None, one_of(MODELS)] = None
        """Another network than the recipe's; its fields follow as --model.*"""
        objective: Annotated[str | None, one_of(OBJECTIVES)] = None
        """Another loss than the recipe's; its fields follow as --objective.*"""
        out: str
        """Run folder, or a URL (s3://, gs://)."""
        workers: int = 0
        """Seeds side by side on Ray (0: one after another in this process, without Ray)."""
        resume: bool = False
        """Go on with the run in --out; a new one where there is none."""

    recipe, rest = choose_recipe("finetune", "finetune", words)
    start = exchange(recipe.make(), rest, {"model": MODELS, "objective": OBJECTIVES})
    default = Finetune(config=start, out=tyro.MISSING)
    c = parse(Finetune, f"finetune {words[0]}", rest, default)
    config = c.config
    if c.data is not None:
        config = replace(config, data=replace(config.data, shards=c.data))
    if c.test_data is not None:
        config = replace(config, data=replace(config.data, test_shards=c.test_data))
    if c.labels:
        config = replace(config, data=replace(config.data, labels=c.labels))
    if c.seeds is not None:
        config = replace(config, protocol=replace(config.protocol, seeds=c.seeds))
    if config.pretrained is None and recipe.pretrained_by is not None:
        raise EcgrayError(
            f"'{recipe.name}' must start from a pretraining run (of '{recipe.pretrained_by}'), got none; give "
            "--pretrained RUN, or --pretrained none for random weights."
        )
    if config.pretrained == "none":
        config = replace(config, pretrained=None)
    print(run(config, c.out, workers=c.workers, resume=c.resume), flush=True)
    announce(True, f"next: ecgray report {c.out} --out REPORT")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score every seed of a finetuning run on labelled records that it has not seen."""

    run: tyro.conf.Positional[str]
    """Finetuning run."""
    data: str
    """Labelled shard set."""
    labels: tuple[str, ...] = ()
    """What its labels count as where they are no classes of the run: AFIB=A NSR=N; AFIB= leaves its records out."""
    out: str
    """New folder of the evaluation, or a URL (s3://, gs://)."""


def evaluate(words: list[str]) -> None:
    from ecgray.finetuning.evaluate import evaluate as run

    c = parse(Evaluate, "evaluate", words)
    print(run(c.run, c.data, c.out, c.labels), flush=True)
    announce(True, f"next: ecgray report {c.run} {c.out} --out REPORT")


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Say what a finetuning run makes of recordings, labelled or not: class and probabilities, mean over its seeds.

    A recording longer than the network's input gives a row for each window of that length.
    """

    run: tyro.conf.Positional[str]
    """Finetuning run."""
    paths: tyro.conf.Positional[tuple[str, ...]]
    """WFDB records and folders of them, or one shard set."""
    out: str
    """New table, .csv or .parquet, or a URL (s3://, gs://)."""
    lead: str | None = None
    """Name of the lead to take of every record, for records that have several."""


def predict(words: list[str]) -> None:
    from ecgray.finetuning.predict import predict as run
    from ecgray.finetuning.predict import summary

    c = parse(Predict, "predict", words)
    table = run(c.run, c.paths, c.out, lead=c.lead)
    print(c.out)
    print(summary(table), flush=True)
    announce(True, f"next: where labels are known, ecgray evaluate {c.run} --data LABELLED --out OUT")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the paper's table with our numbers beside it, from stored runs; or the report of a sweep."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Finetuning runs and evaluations, or one sweep."""
    out: str
    """Folder of the report, or a URL (s3://, gs://)."""


def report(words: list[str]) -> None:
    from ecgray.report.read_sweep import is_sweep
    from ecgray.report.report import write_report
    from ecgray.report.sweep_report import write_sweep_report

    c = parse(Report, "report", words)
    if any(is_sweep(Path(run)) for run in c.runs):
        if len(c.runs) > 1:
            raise EcgrayError(f"A sweep must be reported alone, got {len(c.runs)} folders; give one.")
        print(write_sweep_report(c.runs[0], c.out))
        return
    print(write_report(c.runs, c.out))
