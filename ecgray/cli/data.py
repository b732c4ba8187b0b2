"""Verbs from files to shard sets, and what they hold."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ecgray.cli.words import Flat, choose, parse
from ecgray.errors import EcgrayError, unknown
from ecgray.progress import announce


@dataclass(frozen=True, kw_only=True)
class Synthesise:
    """Write a synthetic database as genuine WFDB files, from a seed."""

    kind: tyro.conf.Positional[Literal["ambulatory", "labelled"]]
    """Long recordings to pretrain on, or short labelled ones to finetune on."""
    root: tyro.conf.Positional[Path]
    """New folder of the database."""
    patients: int = 24
    """Patients of the ambulatory database."""
    segments_per_patient: int = 2
    """Recordings of each patient of the ambulatory database."""
    segment_seconds: float = 600.0
    """Seconds of each of them."""
    records: int = 400
    """Records of the labelled set."""
    seed: int = 0
    """What all is drawn from; another seed gives other patients."""


def synthesise(words: list[str]) -> None:
    from ecgray.databases.synthesise import write_ambulatory, write_labelled

    c = parse(Synthesise, "synthesise", words)
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
    print(c.root, flush=True)
    announce(True, f"next: ecgray ingest synthetic {c.root} --out SHARDS")


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
        out: str
        """Folder of the shard set, or a URL (s3://, gs://); a killed ingest goes on when the command is given again."""
        fs: float | None = None
        """Resample to this rate in Hz."""
        detect_beats: bool = False
        """Find beats in records whose source does not say where they are."""
        workers: int | None = None
        """Parallel readers (default: the cluster's CPUs; 0: in this process, without Ray)."""

    database, rest = choose("ingest", "database", words, DATABASES)
    default = Ingest(root=tyro.MISSING, database=database(), out=tyro.MISSING)
    c = parse(Ingest, f"ingest {words[0]}", rest, default)
    run(c.database, c.root, c.out, fs=c.fs, detect_beats=c.detect_beats, workers=c.workers)
    print(c.out)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what shard sets hold."""

    shards: tyro.conf.Positional[tuple[str, ...]]
    """Shard sets (folders or URLs)."""
    json: bool = False
    """JSON for programs."""
    html: Path | None = None
    """Also write a page with strips of signal and their annotations."""


_FAR_OFF = 10
"""Records far from the others that are printed."""


def inspect(words: list[str]) -> None:
    from ecgray.shards.amplitudes import FarOff
    from ecgray.shards.durations import in_hours
    from ecgray.shards.inspect import summary

    c = parse(Inspect, "inspect", words)
    found = summary(c.shards)
    if c.html is not None:
        from ecgray.shards.inspect_page import write_page

        write_page(c.shards, c.html)
    if c.json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        if key == "far_off":
            print(f"{key:<16}{'not known, ingest again to see' if value is None else len(value)}")
            for row in (value or [])[:_FAR_OFF]:
                print(f"  {FarOff(**row)}")
            if value is not None and len(value) > _FAR_OFF:
                print(f"  and {len(value) - _FAR_OFF} more (--json)")
        elif key == "notes":
            print(f"{key:<16}{len(value) or '-'}")
            for line in value:
                print(f"  {line}")
        elif key == "hours":
            print(f"{key:<16}{in_hours(3600 * value).removesuffix(' h')}")
        elif key == "rhythm_seconds":
            print(f"{'rhythms':<16}{', '.join(f'{name} {in_hours(seconds)}' for name, seconds in value.items())}")
        elif key == "label_versions":
            print(f"{key:<16}{', '.join(f'{version} of {name}' for name, version in value.items()) or '-'}")
        elif key == "refused":
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
    """Shard sets (folders or URLs)."""
    task: str
    """What is asked: beat, rhythm or heart_rate."""
    frames: Path
    """CSV with the columns record, start."""
    frame_size: int = 2048
    """Samples of a frame."""
    rule: Literal["paper", "code"] = "paper"
    """As the paper words the task's rule, or as its published code has it."""
    out: Path | None = None
    """CSV record, start, label (default: printed)."""
    plot: Path | None = None
    """PNG with the frames, their annotations and labels."""


def label(words: list[str]) -> None:
    from ecgray.shards.archive import open_archive
    from ecgray.tasks import TASKS
    from ecgray.tasks.label import label_frames, plot_frames, read_frames

    c = parse(Label, "label", words)
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
