"""Verbs around the runs."""

import contextlib
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ecgray.cli.words import Flat, choose_recipe, exchange, one_of, parse
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
    checks, out = [], sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints what it hears of nodes
        for check in examine(c.storage):
            checks.append(check)
            if not c.json:
                with contextlib.redirect_stdout(out):
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
    print(_folded(label, text, width - 1), flush=True)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """List the runs in a folder, at any depth: state, progress, score and the records it is of, last change."""

    root: tyro.conf.Positional[Path]
    """Folder that holds them."""
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
    width = shutil.get_terminal_size().columns
    print(f"{'state':<8}  {'kind':<8}  run")
    for row in rows:
        name = str(row.path.relative_to(c.root)) + (f": {row.note}" if row.note else "")
        print(_folded(f"{row.state:<8}  {row.kind:<8}  ", name, width))
        if row.state != "damaged":
            print(_folded(f"{'':<10}", "; ".join(_details(row)), width))


def _details(row: "RunRow") -> Iterator[str]:
    """What is known of a run, beside its state: how far it is, its score and on what, when it changed, its config."""
    if row.done is not None:
        unit = row.unit.removesuffix("s") if row.total == 1 else row.unit
        yield f"{row.done:,} of {'?' if row.total is None else format(row.total, ',')} {unit}"
    if row.standing:
        yield row.standing
    tested = None if row.tested is None or row.tested.split == "val" else row.tested
    if row.score is not None:
        name, value, sd = row.score
        of_test = tested is not None and name.startswith("test ")
        name = "validation accuracy" if name == "accuracy" else name.replace("val.", "validation")
        yield f"{name} {_number(value)}{'' if sd is None else f' ± {_number(sd)}'}{f' on {tested}' if of_test else ''}"
        tested = None if of_test else tested
    if tested is not None:
        yield f"test: {tested}"
    elif row.tested is not None and row.tested.split == "val":
        yield f"no test, {row.tested}"
    yield f"changed{_HELD}{time.strftime(f'%Y-%m-%d{_HELD}%H:%M', time.localtime(row.changed))}"
    if row.config_hash:
        yield f"config {row.config_hash[:8]}"


_HELD = "\u00a0"
"""A space at which no line is folded."""


def _number(value: float) -> str:
    """.779, as a report has it."""
    return f"{value:.3f}".removeprefix("0")


def _folded(label: str, text: str, width: int) -> str:
    """The text behind the label, in lines of that width, each under its first."""
    lines = textwrap.wrap(text, max(width - len(label), 20), break_on_hyphens=False) or [""]
    return label + f"\n{'':<{len(label)}}".join(lines).replace(_HELD, " ")


def plan(words: list[str]) -> None:
    from ecgray.models import MODELS
    from ecgray.operations.capacity import ICENTIA11K, ArchiveSize, Rates, archive_size, measured_stream, needs_of
    from ecgray.tasks import TASKS
    from ecgray.training.config import PretrainConfig

    @dataclass(frozen=True, kw_only=True)
    class Plan:
        """What pretraining takes on a cluster of GPUs, from measured rates: on all of Icentia11K, on the shard sets of
        --data, or on an archive that --archive.* tells the size of."""

        config: Annotated[PretrainConfig, Flat]
        data: tuple[str, ...] = ()
        """Shard sets whose size is planned for (--data.shards for short)."""
        archive: ArchiveSize = ICENTIA11K
        task: Annotated[str | None, one_of(TASKS)] = None
        """Another task than the recipe's; its fields follow as --task.*"""
        model: Annotated[str | None, one_of(MODELS)] = None
        """Another network than the recipe's; its fields follow as --model.*"""
        gpus: int
        """GPUs of all nodes, a training worker on each."""
        gpus_per_node: int
        """GPUs of each node."""
        rates: Annotated[Rates, Flat]
        bench: Path | None = None
        """What make bench wrote: the stream's rate, where none is given (default: benchmarks/results/stream.json here,
        if there is one)."""
        shard_mb: float = 128.0
        """MB of signal in a shard, as ingest lays them out."""
        read_ahead_kb: float = 128.0
        """Of the nodes' disks (/sys/block/*/queue/read_ahead_kb; 128 is what Linux sets)."""
        json: bool = False
        """JSON for programs."""

    recipe, rest = choose_recipe("plan", "pretrain", words)
    by_hand = _told_whole(rest, [f"--archive.{field.name}" for field in fields(ArchiveSize)])
    start = exchange(recipe.make(), rest, {"task": TASKS, "model": MODELS})
    c = parse(
        Plan, f"plan {words[0]}", rest, Plan(config=start, rates=Rates(), gpus=tyro.MISSING, gpus_per_node=tyro.MISSING)
    )
    shards = c.data or c.config.data.shards
    if shards and by_hand:
        raise EcgrayError(f"A plan must be for one archive, got {', '.join(shards)} and --archive.*; give one of them.")
    archive = archive_size(shards) if shards else c.archive
    name = ", ".join(shards) if shards else "given" if by_hand else "Icentia11K"
    rates, origin = c.rates, "given"
    bench = c.bench or Path("benchmarks/results/stream.json")
    if rates.stream_frames_per_s is None and (c.bench or bench.is_file()):
        rates, origin = replace(rates, stream_frames_per_s=measured_stream(bench, c.config, archive.leads)), str(bench)
    needs = needs_of(
        c.config,
        rates,
        archive,
        gpus=c.gpus,
        gpus_per_node=c.gpus_per_node,
        shard_mb=c.shard_mb,
        read_ahead_kb=c.read_ahead_kb,
    )
    if c.json:
        size = {"name": name} | asdict(archive)
        values = {"gpus": c.gpus, "gpus_per_node": c.gpus_per_node, "archive": size, "rates": asdict(rates)}
        print(json.dumps(values | asdict(needs) | {"all_reduce_share": needs.all_reduce_share}, indent=2))
        return
    nodes = -(-c.gpus // c.gpus_per_node)
    rows = {
        "cluster": f"GPUs {c.gpus}, nodes {nodes} with {c.gpus_per_node} each",
        "archive": f"{name}: {archive.patients:,} patients, {archive.records:,} records, {archive.hours:,.1f} hours, "
        f"{archive.fs:g} Hz, {archive.leads} lead{'' if archive.leads == 1 else 's'}",
        "signal": f"{needs.archive_bytes / 1e9:,.1f} GB, {needs.shards:,} shards of {c.shard_mb:g} MB",
        "run": f"{needs.frames / 1e6:,.1f} million frames, {needs.steps:,} steps, {needs.passes:.1f} passes",
        "network": f"{needs.parameters / 1e6:.2f} million parameters",
        "step": f"{needs.step_s * 1e3:,.1f} ms: compute {needs.compute_s * 1e3:,.1f}, all-reduce at most "
        f"{needs.all_reduce_s * 1e3:,.1f} ({needs.all_reduce_share:.1%})",
        "beside it": f"stream {needs.stream_s * 1e3:,.1f} ms (rate: {origin}), storage {needs.storage_s * 1e3:,.1f} ms",
        "frames/s": f"{needs.frames_per_s:,.0f} of all GPUs",
        "hours": f"{needs.hours:,.2f}, of them validation at most {needs.validation_s / 3600:.2f}",
        "storage": f"{needs.read_bytes_per_s / 1e6:,.0f} MB/s read by each node from a file system, at most",
        "bucket": f"{needs.fetched_once_bytes_per_s / 1e6:,.0f} MB/s fetched by each node whose cache holds it all, "
        f"and at least {needs.bucket_hours:,.2f} hours",
        "small cache": f"{needs.fetched_each_pass_bytes_per_s / 1e6:,.0f} MB/s fetched by each node, again each pass",
        "object store": f"{needs.object_store_bytes / 1e9:.2f} GB on each node",
        "cost": f"{needs.cost:,.2f} at {rates.price_per_gpu_hour:g} a GPU and hour",
        "limited by": needs.limit,
    }
    for label, text in rows.items():
        _show(f"{label:<14}", text)


def _told_whole(words: Sequence[str], names: Sequence[str]) -> bool:
    """Whether ``words`` give all options of ``names``; False where they give none. Raises EcgrayError for a part."""
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    lacking = [name for name in names if name not in given]
    if 0 < len(lacking) < len(names):
        raise EcgrayError(
            f"An archive must be told whole, got nothing for {', '.join(lacking)}; give them, or --data SHARDS..."
        )
    return not lacking
