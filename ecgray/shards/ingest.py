"""A database to a shard set: one task per shard, in this process or on Ray, resumable after any kill.

``.ingest/`` in the output holds a lock, the plan, and a ledger per shard that is written before the shard gets its
name. A shard is finished when its ledger is there and every file has the ledger's hash; what else is found is dead.

A set at a URL is written shard by shard in a working folder of the machine that reads the records, published from
there (its ledger last) and removed; the storage has the plan and the ledgers, and the manifest last.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ecgray.cluster import connected
from ecgray.config import to_dict
from ecgray.databases import notes
from ecgray.databases.ecg_leads import lead_key
from ecgray.databases.record import Database, Found, Record, RecordRefused, Reference
from ecgray.databases.vocabulary import misunderstood
from ecgray.errors import EcgrayError
from ecgray.shards.amplitudes import far_off, warning
from ecgray.shards.layout import lay_out, source_sizes
from ecgray.shards.ledger import LEAD_SD, Ledger, shard_name
from ecgray.shards.lock import locked
from ecgray.shards.manifest import NAME, SCHEMA, SOFTWARE, WORK, Manifest, file_sha256, read_manifest, write_atomically
from ecgray.shards.prepare import Target, prepare
from ecgray.shards.progress import Progress, outcome, why, without_name
from ecgray.shards.remarks import set_remarks
from ecgray.shards.remote_ingest import at_url, publish_set, published_shard, refuse_finished, send_shard
from ecgray.shards.storage import is_remote, list_files, require_local, resolve
from ecgray.shards.working import NOT_OF_A_RUN, pull, push, working_folder
from ecgray.shards.writer import finish, publish_shard, write_shard

log = logging.getLogger(__name__)

_FS_RANGE = (1.0, 100_000.0)
"""Hz that records can be brought to; beyond it lies a slip, and a filter that no memory holds."""

_PROBES = 7
"""Readable records, spread over the database, whose majority decides rate and leads of the set."""


def ingest(
    database: Database,
    root: Path | str,
    out: Path | str,
    *,
    fs: float | None = None,
    detect_beats: bool = False,
    workers: int | None = None,
    shard_mb: float = 128,
    progress: bool = True,
) -> Manifest:
    """Read every record of ``database`` under ``root`` once and write the shard set ``out``.

    fs: resample to this rate in Hz (None: the rate of most records; others are refused). workers: tasks at a time on
    Ray (None: as many as the cluster has CPUs; 0: this process, Ray is not imported). The bytes of the result depend on
    none of this but ``fs``, ``detect_beats`` and ``shard_mb``. An ingest that was killed goes on when called again.

    Raises EcgrayError for a root that is a URL or not the database's, two records of one name, an output that holds a
    finished set, an ingest with other settings or other files, or cannot be written, and when no record is usable.
    """
    # Absolute, since Ray's workers may have been started in another folder.
    root = require_local(root, "The records of a database").expanduser().absolute()
    url = resolve(out) if is_remote(out) else None
    out = working_folder(url) if url is not None else Path(out).expanduser().absolute()
    _check(fs, workers, shard_mb)
    _refuse_finished(out) if url is None else refuse_finished(url)
    references = database.find(root)
    _check_names(references)
    try:
        with at_url(url, out) if url is not None else contextlib.nullcontext(), locked(out) as work:
            if (out / NAME).exists():  # killed between its last two steps
                return read_manifest(out)
            return _ingest(
                database,
                references,
                out,
                work,
                url=url,
                fs=fs,
                detect=detect_beats,
                workers=workers,
                mb=shard_mb,
                show=progress,
            )
    except OSError as error:
        raise EcgrayError(f"'{out}' must be a folder that can be written, got: {error}; choose another.") from error


def _ingest(
    database: Database,
    references: Sequence[Reference],
    out: Path,
    work: Path,
    *,
    url: str | None,
    fs: float | None,
    detect: bool,
    workers: int | None,
    mb: float,
    show: bool,
) -> Manifest:
    settings = {"database": to_dict(database), "fs": fs, "detect_beats": detect, "shard_mb": mb}
    sizes = source_sizes(references)
    listing = json.dumps([[r.record, r.patient, list(r.labels), n] for r, n in zip(references, sizes, strict=True)])
    plan = {"schema": SCHEMA, "ecgray": SOFTWARE, **settings, "records": sha256(listing.encode()).hexdigest()}
    target = _resume_plan(out, work, plan, url or str(out))
    if target is None:
        target = _choose_target(database, references, fs, detect)
        write_atomically(work / "plan.json", _sealed({"plan": plan, "target": asdict(target)}))
        if url is not None:
            push(out, url, [f"{WORK}/plan.json"])
    published = {} if url is None else _by_shard(list_files(url))
    for dead in out.glob("*.partial*"):
        shutil.rmtree(dead) if dead.is_dir() else dead.unlink()
    jobs = [
        _Job(
            database=database,
            references=tuple(references[part.start : part.stop]),
            target=target,
            out=out,
            number=i,
            url=url,
            published=published.get(shard_name(i), {}),
        )
        for i, part in enumerate(lay_out(references, sizes, mb))
    ]
    with Progress(len(references), show) as bar:
        if workers == 0:
            for job in jobs:
                build_shard(job, bar.record)
        else:
            for records, size, refused in _on_ray(jobs, workers):
                bar.add(records, size, refused)
    if url is not None:
        pull(url, out, lambda name: name.endswith(".ledger"))
    finished = [Ledger.load(job.ledger) for job in jobs]
    for dead in out.glob("*.partial*"):  # of tasks that outlived an earlier ingest
        shutil.rmtree(dead, ignore_errors=True)
    manifest = finish(out, finished, database=database.name, licence=database.licence, target=target, settings=settings)
    if url is not None:
        publish_set(out, url, manifest)
    _say_what_to_look_at(finished, target, url or str(out))
    for line in (*misunderstood(manifest.symbols), *(references.remarks if isinstance(references, Found) else ())):
        log.warning("%s", line)
    if show:
        print(outcome(manifest, [entry for shard in finished for entry in shard.refused]), file=sys.stderr)
    return manifest


def _say_what_to_look_at(finished: Sequence[Ledger], target: Target, place: str) -> None:
    """One line per kind of remark on the records and the set, and one where records are far from the others."""
    columns = [shard.table[LEAD_SD].combine_chunks().flatten().to_numpy() for shard in finished]
    sd_mv = np.concatenate(columns).reshape(-1, len(target.leads))
    names = [name for shard in finished for name in shard.table["id"].to_pylist()]
    for line in notes.lines((each for shard in finished for each in shard.notes()), len(names)):
        log.warning("%s", line)
    for line in set_remarks(target.leads, sd_mv):
        log.warning("%s", line)
    if found := far_off(sd_mv, target.leads, names.__getitem__):
        log.warning("%s", warning(found, len(names), place))


def _by_shard(published: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Files at a URL, name to bytes, by the shard that they are of: those in its folder, and its ledger."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, size in published.items():
        found[name.removeprefix(f"{WORK}/").split("/")[0].removesuffix(".ledger")][name] = size
    return found


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One shard to be built."""

    database: Database
    references: tuple[Reference, ...]
    target: Target
    out: Path
    number: int
    url: str | None = None
    published: dict[str, int] = field(default_factory=dict)
    """Bytes of what was at the URL when the ingest began."""

    @property
    def ledger(self) -> Path:
        return self.out / WORK / f"{shard_name(self.number)}.ledger"


def build_shard(job: _Job, seen: Callable[[int, bool], None] = lambda size, refused: None) -> tuple[int, int, int]:
    """Write one shard unless it is finished; returns records, bytes of signal, and refused records.

    ``seen`` hears of each record: its bytes, and whether it was refused.
    """
    if job.url is not None:
        job = replace(job, out=working_folder(job.url))  # of the machine that this runs on
        job.ledger.parent.mkdir(parents=True, exist_ok=True)
    done = _finished(job) if job.url is None else published_shard(job.url, job.ledger, job.published)
    if done is not None:
        size = sum(entry["bytes"] for entry in done.files.values())
        for _ in range(done.table.num_rows):
            seen(size // done.table.num_rows, False)
        for _ in done.refused:
            seen(0, True)
        return done.table.num_rows, size, len(done.refused)
    records: list[Record] = []
    refused: list[tuple[str, str]] = []
    for reference in job.references:
        try:
            records.append(_read(job.database, reference, job.target))
            seen(records[-1].signal.nbytes, False)
        except RecordRefused as reason:
            refused.append((reference.record, " ".join(str(reason).split())))
            seen(0, True)
    ledger = write_shard(job.out, job.number, records, refused, len(job.target.leads))
    ledger.save(job.ledger)
    publish_shard(job.out, ledger)
    if job.url is not None:
        send_shard(job.out, job.url, ledger, job.ledger)
    return len(records), sum(record.signal.nbytes for record in records), len(refused)


def _read(database: Database, reference: Reference, target: Target | None = None) -> Record:
    """The record, prepared for ``target`` where that is given; whatever this trips over in a broken file is that
    record's reason, not the end of the run."""
    try:
        record = database.read(reference)
        return record if target is None else prepare(record, target)
    except (RecordRefused, MemoryError):
        raise
    except Exception as error:
        raise RecordRefused(f"unreadable ({type(error).__name__}: {error})") from error


def _finished(job: _Job) -> Ledger | None:
    """The ledger of a shard that is there to the last byte."""
    if not job.ledger.is_file():
        return None
    try:
        ledger = Ledger.load(job.ledger)
    except EcgrayError:
        return None  # the shard is read again
    for name, entry in ledger.files.items():
        file = job.out / name
        if not file.is_file() or file.stat().st_size != entry["bytes"] or file_sha256(file) != entry["sha256"]:
            return None
    return ledger


def _on_ray(jobs: Sequence[_Job], workers: int | None) -> Iterator[tuple[int, int, int]]:
    """Results of ``build_shard`` as they come; at most ``workers`` tasks at a time."""
    import ray

    with connected(cpus=workers, quiet=True):
        try:
            task = ray.remote(num_cpus=1, max_retries=3)(build_shard)
            limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            waiting, running = iter(jobs), []
            for job in waiting:
                running.append(task.remote(job))
                if len(running) >= limit:
                    ready, running = ray.wait(running)
                    yield from ray.get(ready)
            while running:
                ready, running = ray.wait(running)
                yield from ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, (EcgrayError, OSError)) else error) from None
        except ray.exceptions.RayError as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EcgrayError(
                f"Ray must keep its tasks alive, but one was lost ({reason}); run the same ingest again."
            ) from error


def _choose_target(database: Database, references: Sequence[Reference], fs: float | None, detect: bool) -> Target:
    """Rate and leads of most of a few records spread over the database; the first found wins a tie."""
    kinds: defaultdict[tuple[float, tuple[str, ...]], Counter[tuple[str, ...]]] = defaultdict(Counter)
    refused: list[tuple[str, str]] = []
    advice: dict[str, str] = {}
    stride = max(1, len(references) // _PROBES)
    for i in (i for begin in range(stride) for i in range(begin, len(references), stride)):
        try:
            record = _read(database, references[i])
            # Leads in another order or spelling are the same leads.
            kinds[(record.fs, tuple(sorted(lead_key(name) for name in record.leads)))][record.leads] += 1
        except RecordRefused as reason:
            refused.append((references[i].record, str(reason)))
            advice.setdefault(without_name(*refused[-1]), reason.advice)
        if sum(found.total() for found in kinds.values()) >= _PROBES:
            break
    if not kinds:
        raise EcgrayError(f"'{database.name}' must hold a usable record, got {why(sorted(refused), advice)}.")
    (rate, _), spellings = max(kinds.items(), key=lambda kind: kind[1].total())
    leads = spellings.most_common(1)[0][0]
    return Target(fs=float(fs or rate), leads=leads, resampled=fs is not None, detect_beats=detect)


def _resume_plan(out: Path, work: Path, plan: dict[str, Any], place: str) -> Target | None:
    """The target of an ingest into ``place`` that was stopped, None where there is none; refuses another plan."""
    file = work / "plan.json"
    if not file.exists():
        if any(entry.name not in (WORK, *NOT_OF_A_RUN) for entry in out.iterdir()):
            raise EcgrayError(f"'{place}' must be a new or empty folder, got other files in it; choose another.")
        return None
    seal, _, content = file.read_bytes().partition(b"\n")
    if sha256(content).hexdigest().encode() != seal:
        raise EcgrayError(
            f"'{file}' must be as the ingest wrote it, got other bytes; remove '{place}' and ingest again."
        )
    stored = json.loads(content)
    for key, value in json.loads(json.dumps(plan)).items():
        if stored["plan"].get(key) != value:
            got = "other records" if key == "records" else f"{key} {value}, not {stored['plan'].get(key)}"
            raise EcgrayError(f"'{place}' must be finished as it was begun, got {got}; use its settings or remove it.")
    return Target(**{**stored["target"], "leads": tuple(stored["target"]["leads"])})


def _sealed(values: dict[str, Any]) -> bytes:
    """JSON with its own SHA-256 on the line above it."""
    content = json.dumps(values).encode()
    return sha256(content).hexdigest().encode() + b"\n" + content


def _refuse_finished(out: Path) -> None:
    if (out / NAME).exists() and not (out / WORK).exists():
        raise EcgrayError(
            f"'{out}' must not hold a shard set yet, got a finished one; use it, choose another folder, or remove it."
        )


def _check_names(references: Sequence[Reference]) -> None:
    """Raise EcgrayError for a record id that two references bear: nothing later could tell them apart."""
    first: dict[str, Reference] = {}
    for reference in references:
        other = first.setdefault(reference.record, reference)
        if other is not reference:
            raise EcgrayError(
                f"Each record must have a name of its own, got '{reference.record}' twice, in {other.path.parent} and"
                f" {reference.path.parent}; remove one of them."
            )


def _check(fs: float | None, workers: int | None, shard_mb: float) -> None:
    low, high = _FS_RANGE
    if fs is not None and not low <= fs <= high:
        raise EcgrayError(
            f"fs must be a rate from {low:g} to {high:g} Hz, got {fs:g}; leave it out to keep the records' own."
        )
    if workers is not None and workers < 0:
        raise EcgrayError(f"workers must be 0 (this process) or more, got {workers}; leave it out for all CPUs.")
    if not shard_mb > 0:
        raise EcgrayError(f"shard_mb must be above 0, got {shard_mb}; 64 to 256 is a good size.")
